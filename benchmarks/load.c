// SPDX-License-Identifier: Apache-2.0
/*
 * The floor for a loaded and attached set: what load_objects() and attach() do,
 * in C with libbpf.
 *
 * usage: load CGROUP OBJECT... For each line on stdin: opens the objects, shares
 * maps by name, loads, attaches every program (sk_msg to the set's sockhash, all
 * others to the cgroup), prints the nanoseconds it took, and gives it all back.
 */
#include <bpf/bpf.h>
#include <bpf/libbpf.h>
#include <err.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#define MOST 32

struct set {
	struct bpf_object *objects[MOST];
	int count;
	int links[MOST];
	int link_count;
	int sk_msg, sockhash; /* descriptors, 0 when there is none */
};

static uint64_t now(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return t.tv_sec * 1000000000ull + t.tv_nsec;
}

/* libbpf's functions return a negative errno; some set errno besides. */
static void check(int result, const char *what)
{
	if (result < 0)
		errx(1, "%s: %s", what, strerror(-result));
}

static void share_maps(struct set *set, struct bpf_object *object)
{
	struct bpf_map *map, *found;

	bpf_object__for_each_map(map, object) {
		if (bpf_map__is_internal(map))
			continue;
		for (int i = 0; i < set->count; i++) {
			found = bpf_object__find_map_by_name(set->objects[i], bpf_map__name(map));
			if (!found)
				continue;
			check(bpf_map__reuse_fd(map, bpf_map__fd(found)), bpf_map__name(map));
			break;
		}
	}
}

static void load(struct set *set, const char *path)
{
	struct bpf_object *object = bpf_object__open_file(path, NULL);
	struct bpf_map *map;

	if (!object)
		err(1, "%s", path);
	share_maps(set, object);
	check(bpf_object__load(object), path);
	bpf_object__for_each_map(map, object)
		if (bpf_map__type(map) == BPF_MAP_TYPE_SOCKHASH)
			set->sockhash = bpf_map__fd(map);
	set->objects[set->count++] = object;
}

static void attach(struct set *set, struct bpf_program *program, int cgroup)
{
	int fd = bpf_program__fd(program), link;
	enum bpf_attach_type type = bpf_program__expected_attach_type(program);

	if (bpf_program__type(program) == BPF_PROG_TYPE_SK_MSG) {
		check(bpf_prog_attach(fd, set->sockhash, type, 0), bpf_program__name(program));
		set->sk_msg = fd;
		return;
	}
	if (set->link_count == MOST)
		errx(1, "more than %d programs", MOST);
	link = bpf_link_create(fd, cgroup, type, NULL);
	check(link, bpf_program__name(program));
	set->links[set->link_count++] = link;
}

static void give_back(struct set *set)
{
	while (set->link_count)
		close(set->links[--set->link_count]);
	if (set->sk_msg)
		check(bpf_prog_detach2(set->sk_msg, set->sockhash, BPF_SK_MSG_VERDICT), "detach");
	while (set->count)
		bpf_object__close(set->objects[--set->count]);
}

int main(int argc, char **argv)
{
	char line[16];
	int cgroup;

	if (argc < 3 || argc - 2 > MOST)
		errx(2, "usage: load CGROUP OBJECT...");
	cgroup = open(argv[1], O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (cgroup < 0)
		err(1, "%s", argv[1]);
	while (fgets(line, sizeof(line), stdin)) {
		struct set set = {.count = 0};
		uint64_t start = now();

		for (int i = 2; i < argc; i++)
			load(&set, argv[i]);
		for (int i = 0; i < set.count; i++) {
			struct bpf_program *program;

			bpf_object__for_each_program(program, set.objects[i])
				attach(&set, program, cgroup);
		}
		printf("%llu\n", (unsigned long long)(now() - start));
		fflush(stdout);
		give_back(&set);
	}
	return 0;
}

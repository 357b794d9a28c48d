/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * What the two loaders need to be told differently, apart from the maps.
 *
 * TESTBED_BCC is defined when bcc compiles this text at run time: it brings its
 * own helpers and names programs by function. Otherwise clang makes an ELF
 * object for libbpf, which names programs by section.
 */
#pragma once

#ifdef TESTBED_BCC
#define PROGRAM(section)
#define LICENSE(text)
#else
#include <linux/bpf.h>
#include <linux/types.h>
#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>
#define PROGRAM(section) SEC(section)
#define LICENSE(text) char program_license[] SEC("license") = text
#endif

/* Not in every UAPI header that this compiles against. */
#define FAMILY_IPV4 2
#define FAMILY_IPV6 10
#define PROTOCOL_TCP 6

/*
 * Older verifiers know the bounds of a variable only when each is looked at by
 * itself. Without the fences the compiler takes both at once, or reads skb->len anew.
 */
#define FENCE(variable) asm volatile("" : "+r"(variable))

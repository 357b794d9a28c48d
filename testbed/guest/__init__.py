"""Guests: a kernel booted by QEMU with an initramfs of our own, asked over a serial port."""

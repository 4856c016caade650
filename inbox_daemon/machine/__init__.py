"""What the kernel and the drivers say: GPUs, memory, disk, systemd, the parent. Asks, and decides nothing."""

"""Kernels and measurements that find out what a device does and how fast, here or behind RPC."""

"""The only home of ctypes and ioctl: total functions over Linux interfaces. No policy."""

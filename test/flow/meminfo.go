package flow

import (
	"unsafe"

	"golang.org/x/sys/unix"
)

// Of the kernel's include/uapi/linux/sock_diag.h.
const (
	skMemInfoDrops = 8
	skMemInfoVars  = 9
)

// memInfoDrops reads SO_MEMINFO, where the kernel counts what it dropped at a
// socket. (SO_RXQ_OVFL has the same number, but only beside a later datagram.)
func memInfoDrops(fd uintptr) (uint64, error) {
	var info [skMemInfoVars]uint32
	size := uint32(unsafe.Sizeof(info))
	_, _, errno := unix.Syscall6(unix.SYS_GETSOCKOPT, fd, unix.SOL_SOCKET, unix.SO_MEMINFO,
		uintptr(unsafe.Pointer(&info)), uintptr(unsafe.Pointer(&size)), 0)
	if errno != 0 {
		return 0, errno
	}
	return uint64(info[skMemInfoDrops]), nil
}

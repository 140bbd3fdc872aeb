package bridge

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"runtime"
	"slices"
	"syscall"
	"time"
	"unsafe"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"

	"github.com/weaveguard/weaveguard/cni/poll"
)

// goneWithin is how long it may take until devices are gone. The kernel needs milliseconds, once it gets to it.
const goneWithin = 10 * time.Second

// doomed is the device group (ip-link(8), group) of devices that are to be removed.
const doomed = 0x77656176 // "weav"

// End is the node's end of a veth pair.
type End struct {
	Name string
	MAC  net.HardwareAddr // of the end in the sandbox; nil if it isn't known
}

// device is an interface that is to be removed.
type device struct {
	name  string
	index int
}

// Detach removes veth pairs, and returns an error or nil for each. That one is gone already is no error. It returns when they
// are gone: closed, and in no namespace any more. The kernel makes whoever asks for that wait until it can also free the
// memory (netdev_run_todo in net/core/dev.c: an RCU barrier, some 10 to 40 ms), which is no concern of a container
// runtime's. So a child process asks and waits.
//
// It puts the devices into a group, and has the kernel remove all that are in it: many in little more time than one. What a
// process that was killed left in the group goes with them.
func (h *Host) Detach(ends ...End) []error {
	errs := make([]error, len(ends))
	indexes := make([]int, len(ends))
	var found []device
	for i, end := range ends {
		if indexes[i], errs[i] = h.find(end); indexes[i] != 0 {
			found = append(found, device{end.Name, indexes[i]})
		}
	}
	if len(found) == 0 {
		return errs
	}
	left, err := removeByChild(found, h.held)
	for i, index := range indexes {
		if !slices.Contains(left, device{ends[i].Name, index}) {
			continue
		}
		failed := err
		if !errors.Is(err, errSlow) { // there is no child, or the group has something in it that can't be removed
			failed = h.nl.LinkDel(&netlink.Device{LinkAttrs: netlink.LinkAttrs{Index: index}})
		}
		if failed != nil && !errors.Is(failed, unix.ENODEV) { // else it went with its sandbox since
			errs[i] = fmt.Errorf("removing %s: %w", ends[i].Name, failed)
		}
	}
	return errs
}

// find returns the index of a veth pair's end, and 0 if it is gone.
func (h *Host) find(end End) (int, error) {
	if index, ok := portIndex(end.Name, end.MAC); ok {
		return index, nil
	}
	link, err := h.nl.LinkByName(end.Name)
	if isNotFound(err) {
		return 0, nil
	}
	if err != nil {
		return 0, fmt.Errorf("looking up %s: %w", end.Name, err)
	}
	if link.Type() != "veth" {
		return 0, fmt.Errorf("the interface %s is a %s, not the veth of a pod: not removing it", end.Name, link.Type())
	}
	return link.Attrs().Index, nil
}

var (
	errNoChild = errors.New("no child process could be made")
	errSlow    = fmt.Errorf("the kernel hasn't removed it within %s", goneWithin)
)

// removeByChild returns which devices are left, and if some are, why.
func removeByChild(devices []device, held []int) (left []device, err error) {
	// Netlink is spoken by the network namespace that the socket was made in.
	socket, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, unix.NETLINK_ROUTE)
	if err != nil {
		return devices, os.NewSyscallError("socket", err)
	}
	defer func() { _ = unix.Close(socket) }()
	var request []byte
	for _, d := range devices {
		request = append(request, groupRequest(d.index)...)
	}
	if !sendByChild(socket, append(request, removeRequest()...), held) {
		return devices, errNoChild
	}
	ctx, cancel := context.WithTimeout(context.Background(), goneWithin)
	defer cancel()
	gone := func(d device) bool {
		now, err := indexOf(socket, d.name)
		return errors.Is(err, unix.ENODEV) || err == nil && now != d.index
	}
	left = slices.Clone(devices)
	err = poll.Until(ctx, func() (bool, error) {
		said := refused(socket)
		for said == nil && len(left) > 0 && gone(left[0]) {
			left = left[1:]
		}
		return len(left) == 0, said
	})
	if errors.Is(err, context.DeadlineExceeded) {
		err = errSlow
	}
	return slices.DeleteFunc(left, gone), err
}

// groupRequest puts a device into the group.
func groupRequest(index int) []byte {
	request := nl.NewNetlinkRequest(unix.RTM_SETLINK, 0)
	which := nl.NewIfInfomsg(unix.AF_UNSPEC)
	which.Index = int32(index)
	request.AddData(which)
	request.AddData(nl.NewRtAttr(unix.IFLA_GROUP, nl.Uint32Attr(doomed)))
	return request.Serialize()
}

// removeRequest removes what is in the group.
func removeRequest() []byte {
	request := nl.NewNetlinkRequest(unix.RTM_DELLINK, 0)
	request.AddData(nl.NewIfInfomsg(unix.AF_UNSPEC))
	request.AddData(nl.NewRtAttr(unix.IFLA_GROUP, nl.Uint32Attr(doomed)))
	return request.Serialize()
}

// indexOf asks for an interface's index (netdevice(7), SIOCGIFINDEX). Unlike netlink that waits for nobody who changes
// interfaces. Any socket of the namespace will do.
func indexOf(socket int, name string) (int, error) {
	request, err := unix.NewIfreq(name)
	if err != nil {
		return 0, err
	}
	if err := unix.IoctlIfreq(socket, unix.SIOCGIFINDEX, request); err != nil {
		return 0, err
	}
	return int(request.Uint32()), nil
}

// portIndex is the index of a port of ours, which its MAC tells. Unlike netlink, these questions wait for nobody who changes
// interfaces: when many plugins remove theirs at once, one wait is enough.
func portIndex(name string, mac net.HardwareAddr) (int, bool) {
	if mac == nil {
		return 0, false
	}
	socket, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return 0, false
	}
	defer func() { _ = unix.Close(socket) }()
	index, err := indexOf(socket, name)
	if err != nil {
		return 0, false
	}
	request, err := unix.NewIfreq(name)
	if err != nil {
		return 0, false
	}
	// struct ifreq (netdevice(7)) has a struct sockaddr behind the name here: a family of 2 bytes, then the MAC.
	const family = 2
	raw := (*[unsafe.Sizeof(*request)]byte)(unsafe.Pointer(request))[unix.IFNAMSIZ:]
	_, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(socket), unix.SIOCGIFHWADDR, uintptr(unsafe.Pointer(request)))
	return index, errno == 0 && bytes.Equal(raw[family:family+len(mac)], HostMAC(mac))
}

// refused returns what the kernel says against the requests, if it has said so. That a device isn't there, or none is in
// the group, is nothing against them: another request removed it.
func refused(socket int) error {
	var answer [4096]byte
	for {
		n, _, err := unix.Recvfrom(socket, answer[:], 0)
		if errors.Is(err, unix.EAGAIN) || errors.Is(err, unix.EINTR) {
			return nil
		}
		if err != nil {
			return os.NewSyscallError("recvfrom", err)
		}
		messages, err := syscall.ParseNetlinkMessage(answer[:n])
		if err != nil || len(messages) != 1 || messages[0].Header.Type != unix.NLMSG_ERROR || len(messages[0].Data) < 4 {
			return fmt.Errorf("the kernel answers %x", answer[:n])
		}
		if code := unix.Errno(-int32(nl.NativeEndian().Uint32(messages[0].Data))); code != 0 && code != unix.ENODEV {
			return code
		}
	}
}

// sendByChild has a child process send a request by a socket, and reports whether there is one. The child holds nothing
// open but the socket and the descriptors to hold, so that nobody who reads this process's output waits for it. When this
// process has ended, it is init's.
func sendByChild(socket int, request []byte, held []int) bool {
	keep := []uintptr{uintptr(socket)}
	for _, descriptor := range held {
		keep = append(keep, uintptr(descriptor))
	}
	slices.Sort(keep)
	ok := cloneToSend(uintptr(os.Getpid()), uintptr(socket), unsafe.Pointer(unsafe.SliceData(request)), uintptr(len(request)), keep)
	runtime.KeepAlive(request)
	runtime.KeepAlive(keep)
	return ok
}

// cloneToSend is fork(2). The child is one thread with a copy of the memory of a process that had several: it may make
// system calls, and nothing that needs Go's runtime, as in syscall.forkAndExecInChild. It keeps these descriptors, which are
// sorted, and when there are more than the socket it lives until its parent has ended.
//
//go:norace
//go:nosplit
//go:noinline
func cloneToSend(parent, socket uintptr, request unsafe.Pointer, size uintptr, keep []uintptr) bool {
	pid, _, errno := unix.RawSyscall6(unix.SYS_CLONE, uintptr(unix.SIGCHLD), 0, 0, 0, 0, 0)
	if errno != 0 {
		return false
	}
	if pid != 0 {
		return true
	}
	// Kernels before 5.9 can't close ranges; then at least standard streams.
	next := uintptr(0)
	for _, descriptor := range keep {
		if descriptor > next {
			_, _, errno = unix.RawSyscall(unix.SYS_CLOSE_RANGE, next, descriptor-1, 0)
		}
		next = descriptor + 1
	}
	unix.RawSyscall(unix.SYS_CLOSE_RANGE, next, ^uintptr(0)>>32, 0)
	if errno != 0 {
		for fd := uintptr(0); fd <= 2; fd++ {
			unix.RawSyscall(unix.SYS_CLOSE, fd, 0, 0)
		}
	}
	unix.RawSyscall6(unix.SYS_SENDTO, socket, uintptr(request), size, 0, 0, 0)
	if len(keep) > 1 {
		unix.RawSyscall6(unix.SYS_PRCTL, unix.PR_SET_PDEATHSIG, uintptr(unix.SIGKILL), 0, 0, 0, 0)
		for {
			if now, _, _ := unix.RawSyscall(unix.SYS_GETPPID, 0, 0, 0); now != parent {
				break
			}
			unix.RawSyscall6(unix.SYS_PPOLL, 0, 0, 0, 0, 0, 0) // until a signal comes
		}
	}
	for {
		unix.RawSyscall(unix.SYS_EXIT_GROUP, 0, 0, 0)
	}
}

// Package store owns what the CNI plugin remembers on a node: which attachments exist, which addresses they have,
// and the ready file by which the agent tells the plugin that pods can be attached. It never touches the network,
// and never decides which address to give.
//
// The directory is meant for /run: a reboot ends every attachment, so nothing is synced to a disk. It must stay
// right when a process is killed at any point, and so every step is one atomic call of the kernel:
//
//	attachments/KEY.json    one attachment; written beside and renamed
//	addresses/10.32.5.7     a symbolic link to ../attachments/KEY.json: the address is taken
//	last-10.32.5.0-24       a symbolic link whose target is the address that was reserved last
//	removals/KEY.json       a hard link to attachments/KEY.json: it is to be removed
//	removals                held (flock) by whoever removes what is marked in it
//	lock                    held (flock) by whoever changes attachments or addresses
//
// Attaching makes the links first and the attachment second; detaching removes the attachment first and the links
// second. So every address of an attachment has its link, and a link whose attachment doesn't exist is what a
// killed process left: whoever holds the lock may take that address. A mark of what isn't stored, or is another file
// than the attachment, was left likewise, and means nothing. Nothing has to be repaired before it is used; Sweep only tidies.
package store

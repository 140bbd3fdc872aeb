// The libcni of containerd 1.6, which Debian 12 has. It can't be in the module of the plugin, which has the newest.
module github.com/weaveguard/weaveguard/test/oldlibcni

go 1.26.0

require github.com/containernetworking/cni v1.1.2

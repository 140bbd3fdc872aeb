#!/bin/sh
# Installs the Debian or Ubuntu packages that the test lanes need. Takes no arguments,
# changes nothing when all of them are there already, and can be run again at any time.
set -eu

# cluster lane: containerd runc buildah busybox-static containernetworking-plugins iptables
# all lanes:    iproute2 nftables tcpdump util-linux procps
# lab lane:     wireguard-tools iperf3 fping iputils-ping
# browser tests (mesh/ui, lab lane): chromium, and a font
# vm lane:      qemu-system-x86 (virtiofsd comes with it on Debian 12), kmod
packages="
	containerd runc buildah busybox-static containernetworking-plugins iptables conntrack
	iproute2 nftables tcpdump util-linux procps
	wireguard-tools iperf3 fping iputils-ping
	chromium fonts-dejavu-core
	qemu-system-x86 kmod
"

missing=""
for package in $packages; do
	# Docker's packages bring these two as well, and don't go together with Debian's.
	case $package in
	containerd | runc) ! command -v "$package" >/dev/null || continue ;;
	esac
	status=$(dpkg-query --show --showformat='${db:Status-Status}' "$package" 2>/dev/null || true)
	[ "$status" = installed ] || missing="$missing $package"
done
[ -n "$missing" ] || exit 0

if [ "$(id -u)" != 0 ]; then
	echo "test/deps.sh: run me as root, to install:$missing" >&2
	exit 1
fi

# Nothing that these packages bring may start a daemon on this machine: the lanes start
# their own. A policy that is there already stays.
policy=/usr/sbin/policy-rc.d
if [ ! -e "$policy" ]; then
	trap 'rm -f "$policy"' EXIT
	printf '#!/bin/sh\nexit 101\n' >"$policy"
	chmod 755 "$policy"
fi

echo "test/deps.sh: installing$missing"
export DEBIAN_FRONTEND=noninteractive
# shellcheck disable=SC2086 # a list of words
apt-get install -y -qq --no-install-recommends $missing >/dev/null 2>&1 ||
	{ apt-get update -qq && apt-get install -y -qq --no-install-recommends $missing >/dev/null; }

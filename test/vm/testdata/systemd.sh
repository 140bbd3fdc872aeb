#!/bin/bash
# systemd.sh PROGRAMS UNITS all|kernel: runs systemd in a namespace of processes of its own, with only what the services of plain
# hosts need, and in it this script again, which operates them, over WireGuard in userspace too if all is asked for. It says "all is
# well" in the end. What it writes is lost with the machine.
set -eu
programs=$1 units=$2 what=$3

operate() {
	set -x
	ready() { for _ in $(seq 60); do [ ! -e /run/weaveguard/cni.json ] || return 0; sleep 0.5; done; systemctl status weaveguard; return 1; }
	up() { for _ in $(seq 60); do ! weaveguard status | grep "^$1" || return 0; sleep 0.5; done; weaveguard status; return 1; }

	systemctl start weaveguard # makes the directories of CNI
	ready
	up "wireguard *kernel"
	ip netns add web
	[ "$(weaveguard attach web)" = 10.32.1.2 ]
	systemctl restart weaveguard
	up "attached *1 pod interface"
	weaveguard rotate --wait
	systemctl stop weaveguard # which leaves the data plane
	ip link show weave
	ip link show type wireguard | grep weave-wg3
	nft list table inet weaveguard > /run/rules
	ls /run/weaveguard/cni.json
	weaveguard detach web
	weaveguard-agent cleanup
	if [ "$what" = kernel ]; then
		touch /run/well
		return
	fi

	echo WEAVEGUARD_FLAGS=--wireguard=userspace >> /etc/weaveguard/weaveguard.env
	systemctl start weaveguard-userspace weaveguard
	ready
	up "wireguard *userspace"
	weaveguard rotate --wait
	wg show weave-wg0 public-key
	for unit in weaveguard weaveguard-userspace; do
		[ "$(systemctl show $unit -p NRestarts --value)" = 0 ]
		grep -q "^Seccomp:.*2" "/proc/$(systemctl show $unit -p MainPID --value)/status"
	done
	systemctl stop weaveguard weaveguard-userspace
	weaveguard-agent cleanup
	touch /run/well
}

if [ "${4:-}" = inside ]; then
	trap 'touch /run/done' EXIT
	export PATH=/usr/local/bin:$PATH HOME=/root
	operate
	exit
fi

export PATH=/usr/local/bin:$PATH
install -D -t /usr/local/bin "$programs/weaveguard" "$programs/weaveguard-agent"
install -D "$programs/weaveguard-cni" /usr/local/lib/weaveguard/weaveguard
install -D "$programs/portmap" /usr/local/lib/weaveguard/weaveguard-portmap
rm -rf /etc/systemd/system/*.wants /etc/cni /opt/cni /var/lib/weaveguard
install -D -m 644 -t /etc/systemd/system "$units"/weaveguard.service "$units"/weaveguard-userspace.service
install -D -m 644 -t /etc/weaveguard "$units/weaveguard.env"
sed -i "s,^WEAVEGUARD_POD_CIDR=.*,WEAVEGUARD_POD_CIDR=10.32.1.0/24," /etc/weaveguard/weaveguard.env # nobody else is there to claim beside
weaveguard keyring add --first --file /etc/weaveguard/key
ip link set lo up
ip link add uplink type veth peer name wire
ip address add 192.0.2.1/24 dev uplink
ip link set uplink up
ip link set wire up
modprobe -a wireguard tun
# What a whole machine starts, and emulation is slow at.
for unit in systemd-{tmpfiles-setup,tmpfiles-setup-dev,journal-flush,random-seed,hwdb-update,sysusers,networkd,udevd,udev-trigger} \
	systemd-{timesyncd,update-utmp,resolved,machine-id-commit,firstboot,logind,sysctl,modules-load} ldconfig dbus; do
	ln -sf /dev/null "/etc/systemd/system/$unit.service"
done
cat > /etc/systemd/system/operate.service <<END
[Unit]
DefaultDependencies=no
[Service]
Type=oneshot
ExecStart=/bin/bash $(readlink -f "$0") $programs $units $what inside
StandardOutput=file:/run/said
StandardError=inherit
END
printf '[Unit]\nWants=operate.service basic.target\n' > /etc/systemd/system/operate.target
mount -t cgroup2 cgroup2 /sys/fs/cgroup
setsid unshare --pid --fork --mount-proc env container=vm /lib/systemd/systemd --system --unit=operate.target --show-status=0 &
for _ in $(seq 300); do
	[ ! -e /run/done ] || break
	sleep 0.5
done
cat /run/said
[ -e /run/well ] && echo all is well

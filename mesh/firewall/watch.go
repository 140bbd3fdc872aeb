package firewall

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/google/nftables"
	"github.com/mdlayher/netlink"
	"github.com/weaveguard/weaveguard/mesh/contract"
	"golang.org/x/sys/unix"
)

// Watch calls changed after each change of our tables, whoever made it, until ctx ends; then it returns nil.
// Changed must not block: it sets a latch. Changes that came too fast to be told count as one.
func (a *Applier) Watch(ctx context.Context, changed func()) error {
	conn, err := netlink.Dial(unix.NETLINK_NETFILTER, &netlink.Config{Groups: 1 << (unix.NFNLGRP_NFTABLES - 1)})
	if err != nil {
		return fmt.Errorf("subscribing to nftables' changes: %w", err)
	}
	defer func() { _ = conn.Close() }()
	stop := context.AfterFunc(ctx, func() { _ = conn.Close() })
	defer stop()
	changed() // what changed before the subscription stood
	for {
		messages, err := conn.Receive()
		switch {
		case ctx.Err() != nil:
			return nil
		case errors.Is(err, unix.ENOBUFS):
			changed()
		case err != nil:
			return fmt.Errorf("receiving nftables' changes: %w", err)
		}
		for _, message := range messages {
			if concernsTable(message) {
				changed()
				break
			}
		}
	}
}

// concernsTable reports whether a message is about one of our tables. Tables, chains, rules, sets and elements all name
// their table in attribute 1 (NFTA_TABLE_NAME, NFTA_CHAIN_TABLE, …).
func concernsTable(message netlink.Message) bool {
	const headerSize = 4 // struct nfgenmsg: family, version, resource
	if len(message.Data) < headerSize || !ours(nftables.TableFamily(message.Data[0])) {
		return false
	}
	attributes, err := netlink.UnmarshalAttributes(message.Data[headerSize:])
	if err != nil {
		return false
	}
	for _, attribute := range attributes {
		if attribute.Type == unix.NFTA_TABLE_NAME {
			return strings.TrimRight(string(attribute.Data), "\x00") == contract.FirewallTable
		}
	}
	return false
}

// Command oldlibcni calls the plugins of a conflist as containerd 1.6 does: ADD, CHECK, DEL, and DEL once more, for one
// sandbox. It prints the result of ADD.
package main

import (
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"os"

	"github.com/containernetworking/cni/libcni"
)

func main() {
	conflist := flag.String("conflist", "", "file of the network")
	plugins := flag.String("plugins", "", "directory of the plugins")
	cache := flag.String("cache", "", "directory for what libcni keeps")
	netns := flag.String("netns", "", "path of the sandbox")
	flag.Parse()
	if err := run(*conflist, *plugins, *cache, *netns); err != nil {
		fmt.Fprintln(os.Stderr, "oldlibcni:", err)
		os.Exit(1)
	}
}

func run(conflist, plugins, cache, netns string) error {
	ctx := context.Background()
	list, err := libcni.ConfListFromFile(conflist)
	if err != nil {
		return err
	}
	cni := libcni.NewCNIConfigWithCacheDir([]string{plugins}, cache, nil)
	if _, err := cni.ValidateNetworkList(ctx, list); err != nil {
		return fmt.Errorf("validating: %w", err)
	}
	sandbox := &libcni.RuntimeConf{ContainerID: "old", NetNS: netns, IfName: "eth0"}
	result, err := cni.AddNetworkList(ctx, list, sandbox)
	if err != nil {
		return fmt.Errorf("ADD: %w", err)
	}
	if err := cni.CheckNetworkList(ctx, list, sandbox); err != nil {
		return fmt.Errorf("CHECK: %w", err)
	}
	for range 2 {
		if err := cni.DelNetworkList(ctx, list, sandbox); err != nil {
			return fmt.Errorf("DEL: %w", err)
		}
	}
	return json.NewEncoder(os.Stdout).Encode(result)
}

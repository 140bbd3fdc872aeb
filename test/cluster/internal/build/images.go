package build

import (
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"
)

// References of the test images. No registry has them.
const (
	PauseReference = "weaveguard.test/pause:dev"
	ProbeReference = "weaveguard.test/probe:dev"
)

// image is built from a directory with a Dockerfile in it, in a context that prepare fills.
type image struct {
	name      string
	reference string
	sources   []string // directories below the root of the work tree
	prepare   func(ctx context.Context, t Tree, context string) error
}

func images() []image {
	return []image{
		{
			name: "pause", reference: PauseReference,
			sources: []string{"test/cluster/images/pause"},
			prepare: func(ctx context.Context, t Tree, dir string) error {
				return t.goBuild(ctx, filepath.Join(dir, "pause"), "./test/cluster/images/pause")
			},
		},
		{
			name: "probe", reference: ProbeReference,
			sources: []string{"test/cluster/images/probe", "test/probe"},
			prepare: prepareProbe,
		},
	}
}

// Images builds the test images as docker archives, unless they are there, and returns their files.
func (t Tree) Images(ctx context.Context, log io.Writer) ([]string, error) {
	var files []string
	for _, i := range images() {
		dir := t.Path("build", "cluster-images", i.name)
		file := filepath.Join(dir, i.name+".tar")
		var sources []string
		for _, s := range i.sources {
			sources = append(sources, t.Path(s))
		}
		stamp, err := stampOf(sources, i.reference)
		if err != nil {
			return nil, err
		}
		err = once(ctx, dir, stamp, func() error {
			start := time.Now()
			fmt.Fprintf(log, "building image %s ...\n", i.reference)
			if err := t.buildImage(ctx, i, file); err != nil {
				return fmt.Errorf("build image %s: %w", i.reference, err)
			}
			fmt.Fprintf(log, "built image %s in %s\n", i.reference, time.Since(start).Round(time.Second))
			return nil
		})
		if err != nil {
			return nil, err
		}
		files = append(files, file)
	}
	return files, nil
}

func (t Tree) buildImage(ctx context.Context, i image, file string) error {
	work, err := os.MkdirTemp("", "weaveguard-image-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(work)
	if err := os.RemoveAll(file); err != nil {
		return err
	}
	files := filepath.Join(work, "context")
	if err := os.Mkdir(files, 0o755); err != nil {
		return err
	}
	if err := i.prepare(ctx, t, files); err != nil {
		return err
	}
	// A storage of its own: nothing is left behind, and nobody else's is touched.
	storage := []string{"--root=" + filepath.Join(work, "root"), "--runroot=" + filepath.Join(work, "run"), "--storage-driver=vfs"}
	steps := [][]string{
		append(storage, "bud", "--isolation=chroot", "--tag="+i.reference,
			"--file="+t.Path("test", "cluster", "images", i.name, "Dockerfile"), files),
		append(storage, "push", i.reference, "docker-archive:"+file+":"+i.reference),
	}
	for _, args := range steps {
		if output, err := exec.CommandContext(ctx, "buildah", args...).CombinedOutput(); err != nil {
			return fmt.Errorf("buildah: %w\n%s", err, tail(output))
		}
	}
	return nil
}

// prepareProbe makes the image's root directory: our probe, and busybox under all its names.
func prepareProbe(ctx context.Context, t Tree, dir string) error {
	const busybox = "/bin/busybox"
	bin := filepath.Join(dir, "rootfs", "bin")
	if err := os.MkdirAll(bin, 0o755); err != nil {
		return err
	}
	if err := os.Mkdir(filepath.Join(dir, "rootfs", "tmp"), 0o1777); err != nil {
		return err
	}
	data, err := os.ReadFile(busybox)
	if err != nil {
		return fmt.Errorf("find busybox (package busybox-static; test/deps.sh installs it): %w", err)
	}
	if err := os.WriteFile(filepath.Join(bin, "busybox"), data, 0o755); err != nil {
		return err
	}
	names, err := exec.CommandContext(ctx, busybox, "--list").Output()
	if err != nil {
		return fmt.Errorf("list the names of busybox: %w", err)
	}
	for _, name := range strings.Fields(string(names)) {
		if name == "busybox" {
			continue
		}
		if err := os.Symlink("busybox", filepath.Join(bin, name)); err != nil {
			return err
		}
	}
	return t.goBuild(ctx, filepath.Join(bin, "probe"), "./test/probe")
}

package browser

import (
	"bytes"
	"image"
	"image/color"
	"image/png"
	"maps"
	"os"
	"slices"
	"testing"

	"github.com/chromedp/chromedp"
)

const (
	// picturesEnv, when it is set, has pictures for the documentation taken anew.
	picturesEnv = "WEAVEGUARD_PICTURES"
	// maxPicture is how large one may be, in bytes.
	maxPicture = 200_000
)

// Picture takes a picture of what is in sight, for the documentation, if $WEAVEGUARD_PICTURES is set: else the file at path, a
// PNG, stays as it is.
func (p *Page) Picture(t testing.TB, path string) {
	t.Helper()
	if os.Getenv(picturesEnv) == "" {
		return
	}
	shot, err := chromedp.Run(p.ctx, chromedp.CaptureScreenshot())
	if err != nil {
		t.Fatal(err)
	}
	picture, err := png.Decode(bytes.NewReader(shot))
	if err != nil {
		t.Fatal(err)
	}
	var small bytes.Buffer
	if err := (&png.Encoder{CompressionLevel: png.BestCompression}).Encode(&small, fewColours(picture)); err != nil {
		t.Fatal(err)
	}
	if small.Len() > maxPicture {
		t.Errorf("%s would have %d bytes, want at most %d", path, small.Len(), maxPicture)
	}
	if err := os.WriteFile(path, small.Bytes(), 0o644); err != nil {
		t.Fatal(err)
	}
}

// fewColours is a picture in the 256 colours that it has most of. A page is of few colours, and shades of them at edges.
func fewColours(picture image.Image) image.Image {
	b := picture.Bounds()
	counts := map[color.Color]int{}
	for y := b.Min.Y; y < b.Max.Y; y++ {
		for x := b.Min.X; x < b.Max.X; x++ {
			counts[picture.At(x, y)]++
		}
	}
	colours := slices.SortedFunc(maps.Keys(counts), func(a, b color.Color) int { return counts[b] - counts[a] })
	few := image.NewPaletted(b, colours[:min(256, len(colours))])
	nearest := map[color.Color]uint8{}
	for y := b.Min.Y; y < b.Max.Y; y++ {
		for x := b.Min.X; x < b.Max.X; x++ {
			c := picture.At(x, y)
			index, known := nearest[c]
			if !known {
				index = uint8(few.Palette.Index(c))
				nearest[c] = index
			}
			few.SetColorIndex(x, y, index)
		}
	}
	return few
}

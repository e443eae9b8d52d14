//go:build unix

package screen

import (
	"fmt"
	"image"
	"image/color"
	"image/draw"
	"image/png"
	"io"
	"os"
	"path/filepath"
	"unicode/utf8"

	uv "github.com/charmbracelet/ultraviolet"
	"golang.org/x/image/font"
	"golang.org/x/image/font/opentype"
	"golang.org/x/image/math/fixed"
)

// Fonts is where Debian's fonts-dejavu-core has its files.
const Fonts = "/usr/share/fonts/truetype/dejavu"

const fontPixels = 16

// Picture writes the screen as a PNG. It needs DejaVu's fonts in the folder.
func (t *Terminal) Picture(w io.Writer, fonts string) error {
	regular, err := loadFace(filepath.Join(fonts, "DejaVuSansMono.ttf"))
	if err != nil {
		return fmt.Errorf("%w: scripts/setup installs the fonts", err)
	}
	bold, err := loadFace(filepath.Join(fonts, "DejaVuSansMono-Bold.ttf"))
	if err != nil {
		return fmt.Errorf("%w: scripts/setup installs the fonts", err)
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	advance, _ := regular.GlyphAdvance('M')
	metrics := regular.Metrics()
	width, height := advance.Round(), (metrics.Ascent + metrics.Descent).Ceil()
	canvas := image.NewRGBA(image.Rect(0, 0, t.cols*width, t.rows*height))
	paper, ink := t.theme.paper, t.theme.ink
	draw.Draw(canvas, canvas.Bounds(), image.NewUniform(paper), image.Point{}, draw.Src)
	for y := range t.rows {
		for x := range t.cols {
			cell := t.emulator.CellAt(x, y)
			if cell == nil || cell.Width == 0 {
				continue
			}
			fg, bg := either(cell.Style.Fg, ink), either(cell.Style.Bg, paper)
			if cell.Style.Attrs&uv.AttrReverse != 0 {
				fg, bg = bg, fg
			}
			box := image.Rect(x*width, y*height, (x+cell.Width)*width, (y+1)*height)
			draw.Draw(canvas, box, image.NewUniform(bg), image.Point{}, draw.Src)
			if r, size := utf8.DecodeRuneInString(cell.Content); size == len(cell.Content) && r >= '▁' && r <= '█' {
				// Bars are drawn, so that they touch as they do in a terminal.
				eighths := int(r-'▁') + 1
				box.Min.Y = box.Max.Y - height*eighths/8
				draw.Draw(canvas, box, image.NewUniform(fg), image.Point{}, draw.Src)
				continue
			}
			face := regular
			if cell.Style.Attrs&uv.AttrBold != 0 {
				face = bold
			}
			pen := font.Drawer{Dst: canvas, Src: image.NewUniform(fg), Face: face,
				Dot: fixed.P(x*width, y*height+metrics.Ascent.Ceil())}
			pen.DrawString(cell.Content)
		}
	}
	return png.Encode(w, canvas)
}

func either(c, otherwise color.Color) color.Color {
	if c == nil {
		return otherwise
	}
	return c
}

func loadFace(path string) (font.Face, error) {
	content, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	parsed, err := opentype.Parse(content)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return opentype.NewFace(parsed, &opentype.FaceOptions{Size: fontPixels, DPI: 72, Hinting: font.HintingFull})
}

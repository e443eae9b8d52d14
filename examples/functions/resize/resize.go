// Package resize is the sample function of the demo: it fetches an image, makes
// it smaller and answers with it as a data URL.
package resize

import (
	"bytes"
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"image"
	_ "image/jpeg" // decodes
	"image/png"
	"io"
	"log"
	"net/http"
	"strings"
	"time"

	"github.com/aws/aws-lambda-go/lambdacontext"
	"golang.org/x/image/draw"
)

// Input is what a job asks for.
type Input struct {
	ImageURL string `json:"image_url"` // http, https or data
	Width    int    `json:"width"`     // of the result, in pixels; at most 4096
	Height   int    `json:"height"`
}

// Output is what it gets. Sizes are in bytes.
type Output struct {
	ResizedURL   string `json:"resized_url"`
	OriginalSize int    `json:"original_size"`
	NewSize      int    `json:"new_size"`
}

const (
	maxImage = 5 << 20 // bytes
	maxSide  = 4096    // pixels
)

var client = http.Client{Timeout: 20 * time.Second}

// Handle resizes one image. It may be repeated: it changes nothing.
func Handle(ctx context.Context, in Input) (Output, error) {
	if c, ok := lambdacontext.FromContext(ctx); ok {
		job := c.ClientContext.Custom
		log.Printf("job %s, attempt %s: %dx%d", job["job_id"], job["attempt"], in.Width, in.Height)
	}
	if in.Width < 1 || in.Height < 1 || in.Width > maxSide || in.Height > maxSide {
		return Output{}, fmt.Errorf("width and height are from 1 to %d pixels, not %d and %d", maxSide, in.Width, in.Height)
	}
	raw, err := fetch(ctx, in.ImageURL)
	if err != nil {
		return Output{}, fmt.Errorf("fetch the image: %w", err)
	}
	if c, _, err := image.DecodeConfig(bytes.NewReader(raw)); err == nil && c.Width*c.Height > 64<<20 {
		return Output{}, fmt.Errorf("the image has %d by %d pixels, which are too many", c.Width, c.Height)
	}
	before, _, err := image.Decode(bytes.NewReader(raw))
	if err != nil {
		return Output{}, fmt.Errorf("decode the image: %w", err)
	}
	after := image.NewRGBA(image.Rect(0, 0, in.Width, in.Height))
	draw.ApproxBiLinear.Scale(after, after.Bounds(), before, before.Bounds(), draw.Src, nil)
	var b bytes.Buffer
	if err := png.Encode(&b, after); err != nil {
		return Output{}, err
	}
	return Output{ResizedURL: "data:image/png;base64," + base64.StdEncoding.EncodeToString(b.Bytes()), OriginalSize: len(raw), NewSize: b.Len()}, nil
}

func fetch(ctx context.Context, url string) ([]byte, error) {
	if data, ok := strings.CutPrefix(url, "data:"); ok {
		_, encoded, ok := strings.Cut(data, ";base64,")
		if !ok {
			return nil, errors.New("a data URL has to be base64")
		}
		return base64.StdEncoding.DecodeString(encoded)
	}
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return nil, err
	}
	answer, err := client.Do(request)
	if err != nil {
		return nil, err
	}
	defer answer.Body.Close()
	if answer.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("the server answers %s", answer.Status)
	}
	raw, err := io.ReadAll(io.LimitReader(answer.Body, maxImage+1))
	if err == nil && len(raw) > maxImage {
		err = fmt.Errorf("the image has more than %d bytes", maxImage)
	}
	return raw, err
}

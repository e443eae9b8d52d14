// Package lambdatest gives tests a local Lambda with a function that does what
// its payload says. The function is the test program itself, started again by the
// endpoint: call Main in TestMain.
package lambdatest

import (
	"archive/zip"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-lambda-go/lambda"
	"github.com/aws/aws-lambda-go/lambdacontext"
	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/credentials"
	service "github.com/aws/aws-sdk-go-v2/service/lambda"
	"github.com/aws/aws-sdk-go-v2/service/lambda/types"

	"github.com/specql/specql-ops/internal/lambdadev"
)

// variable tells the program that it is the function.
const variable = "SPECQL_LAMBDATEST_FUNCTION"

// Main is the function where the endpoint started the program, and does not
// return then.
func Main() {
	switch os.Getenv(variable) {
	case "":
		return
	case "bad-init":
		fmt.Println("the configuration is missing")
		os.Exit(7)
	}
	lambda.Start(handle)
}

// Event is what the function understands. Whatever it does, it first waits for
// Sleep milliseconds, tells Tell, and writes Say to its log.
type Event struct {
	Do    string // below; answers with SuccessOutput when empty
	Text  string // what to answer or to fail with
	Say   string
	Bytes int    // to answer with or to allocate
	Sleep int    // ms
	Tell  string // a URL that is told with a GET
}

// What Event.Do may say.
const (
	Text     = "text"     // answer with a string
	JSON     = "json"     // answer with Text as it is
	Fail     = "fail"     // with Text as its error
	Panic    = "panic"    // with Text
	Exit     = "exit"     // with status 3
	Hang     = "hang"     // until it is killed
	Huge     = "huge"     // answer with Bytes bytes of text
	Broken   = "broken"   // the same, and fail at their end
	Allocate = "allocate" // Bytes bytes, and answer
	Reveal   = "reveal"   // answer with all that it sees
)

// SuccessOutput is the answer to the zero Event.
const SuccessOutput = `{"status": "done", "items": 3}`

var kept [][]byte // what was allocated

func handle(ctx context.Context, raw json.RawMessage) (any, error) {
	var in Event
	json.Unmarshal(raw, &in) // other payloads are the zero Event
	time.Sleep(time.Duration(in.Sleep) * time.Millisecond)
	if in.Tell != "" {
		if answer, err := http.Get(in.Tell); err == nil {
			answer.Body.Close()
		}
	}
	if in.Say != "" {
		fmt.Println(in.Say)
	}
	switch in.Do {
	case Text:
		return in.Text, nil
	case JSON:
		return json.RawMessage(in.Text), nil
	case Fail:
		return nil, errors.New(in.Text)
	case Panic:
		panic(in.Text)
	case Exit:
		os.Exit(3)
	case Hang:
		select {}
	case Huge:
		return stream{Reader: io.LimitReader(endless{}, int64(in.Bytes))}, nil
	case Broken:
		return stream{Reader: io.MultiReader(io.LimitReader(endless{}, int64(in.Bytes)), failing(in.Text))}, nil
	case Allocate:
		block := make([]byte, in.Bytes)
		for i := 0; i < len(block); i += 4096 {
			block[i] = 1
		}
		kept = append(kept, block)
	case Reveal:
		seen, _ := lambdacontext.FromContext(ctx)
		return map[string]any{"environment": os.Environ(), "context": seen, "payload": raw, "trace": ctx.Value("x-amzn-trace-id"), "pid": os.Getpid()}, nil
	}
	return json.RawMessage(SuccessOutput), nil
}

// stream is a reader that cannot be taken for an object to encode.
type stream struct {
	io.Reader
	Never func() // JSON has none
}

type endless struct{}

func (endless) Read(p []byte) (int, error) {
	for i := range p {
		p[i] = 'x'
	}
	return len(p), nil
}

type failing string

func (f failing) Read([]byte) (int, error) { return 0, errors.New(string(f)) }

// Zip is a deployment package of the function.
func Zip(t testing.TB) []byte { return pack(t, "function") }

// BadInit is one whose function ends before it asks for an event.
func BadInit(t testing.TB) []byte { return pack(t, "bad-init") }

func pack(t testing.TB, what string) []byte {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	var b bytes.Buffer
	z := zip.NewWriter(&b)
	w, err := z.Create("bootstrap")
	if err == nil {
		_, err = fmt.Fprintf(w, "#!/bin/sh\nexport %s=%s\nexec '%s'\n", variable, what, strings.ReplaceAll(self, "'", `'\''`))
	}
	if err = errors.Join(err, z.Close()); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// Start starts an endpoint that ends with the test.
func Start(t testing.TB, opt lambdadev.Options) *lambdadev.Server {
	t.Helper()
	s, err := lambdadev.Start(opt)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Close)
	return s
}

// Client is the SDK's client of the endpoint at url.
func Client(url, region string) *service.Client {
	return service.New(service.Options{Region: region, BaseEndpoint: &url, Retryer: aws.NopRetryer{},
		HTTPClient:  &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: 64, DisableKeepAlives: true}},
		Credentials: credentials.NewStaticCredentialsProvider("AKIDTEST", "test-secret", "")})
}

// Create makes a function of a package, with so much memory and time.
func Create(t testing.TB, c *service.Client, name string, packed []byte, memoryMB, timeout int) {
	t.Helper()
	_, err := c.CreateFunction(t.Context(), &service.CreateFunctionInput{FunctionName: &name, Runtime: types.RuntimeProvidedal2023,
		Role: aws.String("arn:aws:iam::123456789012:role/function"), Handler: aws.String("bootstrap"),
		MemorySize: aws.Int32(int32(memoryMB)), Timeout: aws.Int32(int32(timeout)), Code: &types.FunctionCode{ZipFile: packed}})
	if err != nil {
		t.Fatal(err)
	}
}

// Payload is an event as JSON.
func Payload(e Event) []byte {
	raw, _ := json.Marshal(e) // strings and numbers: it cannot fail
	return raw
}

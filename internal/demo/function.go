package demo

import (
	"archive/zip"
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"strings"

	"github.com/aws/aws-lambda-go/lambda"
	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/credentials"
	sdk "github.com/aws/aws-sdk-go-v2/service/lambda"
	"github.com/aws/aws-sdk-go-v2/service/lambda/types"

	"github.com/specql/specql-ops/examples/functions/resize"
	"github.com/specql/specql-ops/internal/lambdadev"
)

// functionVariable tells the program that it is the demo's function.
const functionVariable = "SPECQL_DEMO_FUNCTION"

// FunctionMain is the sample function examples/functions/image_resizer where the
// demo's Lambda endpoint started this program as its bootstrap, and does not
// return then. A program that runs the demo calls it first: so the demo needs no
// Go toolchain.
func FunctionMain() {
	if os.Getenv(functionVariable) != "" {
		lambda.Start(resize.Handle)
	}
}

// localKeys sign calls of the demo's endpoint, which only wants to see a signature.
var localKeys = credentials.NewStaticCredentialsProvider("AKIDDEMO", "demo", "")

// startFunctions starts a Lambda endpoint with the sample function.
func startFunctions(ctx context.Context) (*lambdadev.Server, error) {
	server, err := lambdadev.Start(lambdadev.Options{})
	if err != nil {
		return nil, err
	}
	if err := createFunction(ctx, server.URL()); err != nil {
		server.Close()
		return nil, fmt.Errorf("the demo's function: %w", err)
	}
	return server, nil
}

func createFunction(ctx context.Context, url string) error {
	self, err := os.Executable()
	if err != nil {
		return err
	}
	var packed bytes.Buffer
	z := zip.NewWriter(&packed)
	w, err := z.Create("bootstrap")
	if err == nil {
		_, err = fmt.Fprintf(w, "#!/bin/sh\nexport %s=1\nexec '%s'\n", functionVariable, strings.ReplaceAll(self, "'", `'\''`))
	}
	if err = errors.Join(err, z.Close()); err != nil {
		return err
	}
	client := sdk.New(sdk.Options{Region: "us-east-1", BaseEndpoint: &url, Credentials: localKeys})
	_, err = client.CreateFunction(ctx, &sdk.CreateFunctionInput{FunctionName: aws.String("image-resize-service"),
		Runtime: types.RuntimeProvidedal2023, Role: aws.String("arn:aws:iam::123456789012:role/image-resize-service"),
		Handler: aws.String("bootstrap"), MemorySize: aws.Int32(1024), Timeout: aws.Int32(60),
		Code: &types.FunctionCode{ZipFile: packed.Bytes()}})
	return err
}

// Command image_resizer is the sample function as AWS Lambda runs it:
//
//	GOOS=linux CGO_ENABLED=0 go build -tags lambda.norpc -o bootstrap ./examples/functions/image_resizer
//	zip function.zip bootstrap
//	aws lambda create-function --function-name image-resize-service --runtime provided.al2023 \
//	  --handler bootstrap --memory-size 1024 --timeout 300 --zip-file fileb://function.zip --role ROLE_ARN
package main

import (
	"github.com/aws/aws-lambda-go/lambda"

	"github.com/specql/specql-ops/examples/functions/resize"
)

func main() { lambda.Start(resize.Handle) }

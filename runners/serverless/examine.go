package serverless

import (
	"context"
	"fmt"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/config"
	"github.com/aws/aws-sdk-go-v2/service/sts"

	"github.com/specql/specql-ops/runners"
)

// Examine says as whom and where this host would call functions. It asks AWS STS
// once.
func Examine(ctx context.Context) []runners.Check {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	cfg, err := config.LoadDefaultConfig(ctx)
	if err != nil {
		return []runners.Check{{Name: "identity", Found: "AWS configuration cannot be read: " + err.Error(), Advice: "mend the shared configuration files or AWS_* variables"}}
	}
	region := runners.Check{Name: "region", OK: true, Found: "no default; services name their own"}
	if cfg.Region != "" {
		region.Found = cfg.Region + " is the default; services name their own"
	}
	if cfg.Region == "" {
		cfg.Region = "us-east-1" // STS has to be somewhere
	}
	who, err := sts.NewFromConfig(cfg, func(o *sts.Options) { o.Retryer = aws.NopRetryer{} }).GetCallerIdentity(ctx, &sts.GetCallerIdentityInput{})
	if err != nil {
		return []runners.Check{{Name: "identity", Found: "none: " + shorten(err.Error(), maxLine),
			Advice: "give the agent credentials: AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, AWS_PROFILE, or a role of the machine or container"}, region}
	}
	return []runners.Check{{Name: "identity", OK: true, Found: fmt.Sprintf("%s of account %s", aws.ToString(who.Arn), aws.ToString(who.Account))}, region}
}

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

// Examine says as whom and where this host would call functions, and by which
// prices their cost is reckoned. It asks AWS STS once.
func Examine(ctx context.Context) []runners.Check {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	cfg, err := config.LoadDefaultConfig(ctx)
	p := DefaultPrices
	prices := runners.Check{Name: "prices", OK: true, Found: fmt.Sprintf("of %s in us-east-1: $%.10f a GB-second on x86_64, $%.10f on arm64, $%.2f a million requests; services may give their own",
		p.AsOf, p.X86, p.ARM, p.PerRequest*1e6)}
	if err != nil {
		return []runners.Check{{Name: "identity", Found: "AWS configuration cannot be read: " + err.Error(), Advice: "mend the shared configuration files or AWS_* variables"}, prices}
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
			Advice: "give the agent credentials: AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, AWS_PROFILE, or a role of the machine or container"}, region, prices}
	}
	return []runners.Check{{Name: "identity", OK: true, Found: fmt.Sprintf("%s of account %s", aws.ToString(who.Arn), aws.ToString(who.Account))}, region, prices}
}

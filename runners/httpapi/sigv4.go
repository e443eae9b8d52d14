package httpapi

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"net/http"
	"strings"

	"github.com/aws/aws-sdk-go-v2/aws"
	v4 "github.com/aws/aws-sdk-go-v2/aws/signer/v4"
)

// signature is what AWS Signature Version 4 needs of an attempt
// (docs.aws.amazon.com, "AWS Signature Version 4 for API requests").
type signature struct {
	credentials     aws.Credentials
	service, region string
	bodyHash        string // SHA-256 of the body, hexadecimal
}

var signer = v4.NewSigner()

// s3Signer leaves the path as it is: S3's keys are signed as they are sent,
// while every other service's path is escaped once more.
var s3Signer = v4.NewSigner(func(o *v4.SignerOptions) { o.DisableURIPathEscaping = true })

// prepareSigV4 reads the credentials. The variables are those of the AWS tools
// where auth_config names none.
func (a *attempt) prepareSigV4() error {
	auth := &a.call.Service.RunnerConfig.AuthConfig
	if auth.AWSRegion == "" || auth.AWSService == "" {
		return a.config("auth_type aws_sigv4 needs auth_config.aws_region and auth_config.aws_service")
	}
	id, err := a.secret("access_key_id_env_var", cmp.Or(auth.AccessKeyIDEnvVar, "AWS_ACCESS_KEY_ID"))
	if err != nil {
		return err
	}
	key, err := a.secret("secret_access_key_env_var", cmp.Or(auth.SecretAccessKeyEnvVar, "AWS_SECRET_ACCESS_KEY"))
	if err != nil {
		return err
	}
	session := ""
	if auth.SessionTokenEnvVar != "" {
		if session, err = a.secret("session_token_env_var", auth.SessionTokenEnvVar); err != nil {
			return err
		}
	} else if auth.AccessKeyIDEnvVar == "" { // the token belongs to the default variables' key
		session, _ = a.runner.opts.LookupEnv("AWS_SESSION_TOKEN")
		session = strings.TrimRight(session, "\r\n")
	}
	a.hide(key)
	a.hide(session)
	hash := sha256.Sum256(a.body)
	a.signature = &signature{
		credentials: aws.Credentials{AccessKeyID: id, SecretAccessKey: key, SessionToken: session},
		service:     auth.AWSService, region: auth.AWSRegion, bodyHash: hex.EncodeToString(hash[:]),
	}
	a.private = append(a.private, "Authorization", "X-Amz-Security-Token", "X-Amz-Date", "X-Amz-Content-Sha256")
	return nil
}

// sign signs one try: a signature holds for some minutes only.
func (a *attempt) sign(ctx context.Context, request *http.Request) error {
	s := a.signature
	request.Header = request.Header.Clone()
	by := signer
	if s.service == "s3" {
		by = s3Signer
		request.Header.Set("X-Amz-Content-Sha256", s.bodyHash)
	}
	if err := by.SignHTTP(ctx, s.credentials, request, s.bodyHash, s.service, s.region, a.runner.opts.Now()); err != nil {
		return err
	}
	if _, signed, ok := strings.Cut(request.Header.Get("Authorization"), "Signature="); ok {
		a.secrets.merge(spell(signed))
	}
	return nil
}

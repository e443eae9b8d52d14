package serverless

import (
	"context"
	"net/http"
	"net/http/httptrace"
	"slices"
	"sync"

	"github.com/aws/aws-sdk-go-v2/aws"
	awsmiddleware "github.com/aws/aws-sdk-go-v2/aws/middleware"
	awshttp "github.com/aws/aws-sdk-go-v2/aws/transport/http"
	"github.com/aws/aws-sdk-go-v2/config"
	"github.com/aws/aws-sdk-go-v2/credentials/stscreds"
	"github.com/aws/aws-sdk-go-v2/service/lambda"
	"github.com/aws/aws-sdk-go-v2/service/lambda/types"
	"github.com/aws/aws-sdk-go-v2/service/sts"
	"github.com/aws/smithy-go/middleware"
	smithyhttp "github.com/aws/smithy-go/transport/http"

	"github.com/specql/specql-ops/registry"
)

// access is where and as whom functions are called.
type access struct{ region, endpoint, role string }

func accessOf(s *registry.Service) access {
	return access{s.RunnerConfig.Region, s.RunnerConfig.EndpointURL, s.RunnerConfig.RoleARN}
}

// client calls functions over connections of its own.
type client struct {
	lambda *lambda.Client
	pool   *http.Transport
}

// clients keeps one client for each access.
type clients struct {
	version string
	given   aws.CredentialsProvider // nil: the usual chain

	mu  sync.Mutex
	all map[access]*client
}

func newClients(version string, given aws.CredentialsProvider) *clients {
	return &clients{version: version, given: given, all: map[access]*client{}}
}

func (c *clients) close() { c.retain(nil) }

// retain lets go of the clients that none of the services uses.
func (c *clients) retain(services []*registry.Service) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for a := range c.all {
		if !slices.ContainsFunc(services, func(s *registry.Service) bool { return accessOf(s) == a }) {
			c.all[a].pool.CloseIdleConnections()
			delete(c.all, a)
		}
	}
}

// get makes the client on its first use. Credentials come from the usual chain:
// variables, the shared files, a web identity, the container's or the machine's
// role; with role_arn they are those of the assumed role.
func (c *clients) get(ctx context.Context, s *registry.Service) (*client, error) {
	a := accessOf(s)
	c.mu.Lock()
	defer c.mu.Unlock()
	if found := c.all[a]; found != nil {
		return found, nil
	}
	cfg, err := config.LoadDefaultConfig(context.WithoutCancel(ctx), config.WithRegion(a.region),
		config.WithAPIOptions([]func(*middleware.Stack) error{awsmiddleware.AddUserAgentKeyValue("specql-agent", c.version)}))
	if err != nil {
		return nil, err
	}
	if c.given != nil {
		cfg.Credentials = c.given
	}
	pool := transport(cfg.HTTPClient)
	cfg.HTTPClient = &http.Client{Transport: pool, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	if a.role != "" {
		provider := stscreds.NewAssumeRoleProvider(sts.NewFromConfig(cfg), a.role, func(o *stscreds.AssumeRoleOptions) {
			o.RoleSessionName = "specql-agent"
		})
		cfg.Credentials = aws.NewCredentialsCache(provider)
	}
	made := &client{pool: pool, lambda: lambda.NewFromConfig(cfg, func(o *lambda.Options) {
		o.Retryer = aws.NopRetryer{} // a function that was started may have done its work
		if a.endpoint != "" {
			o.BaseEndpoint = &a.endpoint
		}
	})}
	c.all[a] = made
	return made, nil
}

// transport is the SDK's own, with the authorities and the proxy that its
// environment names, and room for many calls at once.
func transport(of aws.HTTPClient) *http.Transport {
	built, ok := of.(*awshttp.BuildableClient)
	if !ok {
		built = awshttp.NewBuildableClient()
	}
	pool := built.GetTransport()
	pool.MaxIdleConns, pool.MaxIdleConnsPerHost = 1024, 256
	return pool
}

// answer is what came of an invocation.
type answer struct {
	status        int
	payload       []byte // at most what the service may answer
	cut           int64  // bytes beyond it
	functionError string // Unhandled, or a kind of error; empty: none
	log           string // its end
	version       string
	requestID     string
}

// invoke sends an invocation once, and notes in it when it could be on its way.
func (c *client) invoke(ctx context.Context, in *invocation) (*answer, error) {
	watched := func(o *lambda.Options) {
		o.APIOptions = append(slices.Clone(o.APIOptions), in.watch)
		if in.traceID != "" {
			o.APIOptions = append(o.APIOptions, smithyhttp.SetHeaderValue("X-Amzn-Trace-Id", in.traceID))
		}
	}
	if in.kind == responseStream {
		return c.stream(ctx, in, watched)
	}
	input := &lambda.InvokeInput{FunctionName: &in.function, Payload: in.payload, InvocationType: types.InvocationTypeEvent}
	if in.qualifier != "" {
		input.Qualifier = &in.qualifier
	}
	if in.kind != event { // neither is had with an event
		input.InvocationType, input.LogType, input.ClientContext = types.InvocationTypeRequestResponse, types.LogTypeTail, &in.clientContext
	}
	out, err := c.lambda.Invoke(ctx, input, watched)
	if err != nil {
		return nil, err
	}
	said := &answer{status: int(out.StatusCode), payload: out.Payload, functionError: aws.ToString(out.FunctionError),
		log: decodeLog(out.LogResult), version: aws.ToString(out.ExecutedVersion)}
	said.requestID, _ = awsmiddleware.GetRequestIDMetadata(out.ResultMetadata)
	said.bound(in.maxAnswer)
	return said, nil
}

// watch notes when the invocation has a connection to the function's endpoint:
// before that nothing can have been invoked. It looks at the sending alone, which
// comes after the credentials were got.
func (in *invocation) watch(stack *middleware.Stack) error {
	hooks := &httptrace.ClientTrace{GotConn: func(httptrace.GotConnInfo) { in.sent.Store(true) }}
	return stack.Deserialize.Add(middleware.DeserializeMiddlewareFunc("specql:watch", func(ctx context.Context, input middleware.DeserializeInput,
		next middleware.DeserializeHandler) (middleware.DeserializeOutput, middleware.Metadata, error) {
		return next.HandleDeserialize(httptrace.WithClientTrace(ctx, hooks), input)
	}), middleware.After)
}

// keptOfHuge is how much is kept of an answer that is larger than it may be:
// enough to see what it is.
const keptOfHuge = 64 << 10

func (a *answer) bound(most int64) {
	if a.functionError == "" && int64(len(a.payload)) > most {
		kept := min(int64(keptOfHuge), most)
		a.cut = int64(len(a.payload)) - kept
		a.payload = a.payload[:kept]
	}
}

// stream invokes a function that answers as it goes along.
func (c *client) stream(ctx context.Context, in *invocation, watched func(*lambda.Options)) (*answer, error) {
	input := &lambda.InvokeWithResponseStreamInput{FunctionName: &in.function, Payload: in.payload, LogType: types.LogTypeTail, ClientContext: &in.clientContext}
	if in.qualifier != "" {
		input.Qualifier = &in.qualifier
	}
	out, err := c.lambda.InvokeWithResponseStream(ctx, input, watched)
	if err != nil {
		return nil, err
	}
	said := &answer{status: int(out.StatusCode), version: aws.ToString(out.ExecutedVersion)}
	said.requestID, _ = awsmiddleware.GetRequestIDMetadata(out.ResultMetadata)
	events := out.GetStream()
	defer events.Close()
	complete := false
	for e := range events.Events() {
		switch e := e.(type) {
		case *types.InvokeWithResponseStreamResponseEventMemberPayloadChunk:
			room := max(0, in.maxAnswer-int64(len(said.payload)))
			if said.cut > 0 {
				room = 0
			}
			kept := min(room, int64(len(e.Value.Payload)))
			said.payload = append(said.payload, e.Value.Payload[:kept]...)
			said.cut += int64(len(e.Value.Payload)) - kept
		case *types.InvokeWithResponseStreamResponseEventMemberInvokeComplete:
			complete = true
			said.log = decodeLog(e.Value.LogResult)
			if said.functionError = aws.ToString(e.Value.ErrorCode); said.functionError != "" {
				said.payload, said.cut = []byte(aws.ToString(e.Value.ErrorDetails)), 0
			}
		}
	}
	switch err := events.Err(); {
	case ctx.Err() != nil:
		return nil, ctx.Err()
	case err != nil:
		return nil, err
	case !complete:
		return nil, errBrokenOff
	}
	if over := int64(len(said.payload)) - keptOfHuge; said.cut > 0 && over > 0 {
		said.payload, said.cut = said.payload[:keptOfHuge], said.cut+over
	}
	return said, nil
}

package httpapi

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"time"

	"golang.org/x/oauth2"
	"golang.org/x/oauth2/clientcredentials"

	"github.com/specql/specql-ops/runners"
)

// tokens keeps the access tokens of client credentials until they expire or
// are refused, so that a service's jobs share one.
type tokens struct {
	max int

	mu    sync.Mutex
	byKey map[[sha256.Size]byte]*grant
}

// grant is one client's way to a token.
type grant struct {
	turn   chan struct{} // held while token is read or asked for
	config clientcredentials.Config
	token  *oauth2.Token // nil: none yet
}

func newTokens(max int) *tokens {
	return &tokens{max: max, byKey: make(map[[sha256.Size]byte]*grant)}
}

// of returns the grant of a client at a token endpoint. A secret that changes
// makes another.
func (ts *tokens) of(config clientcredentials.Config) *grant {
	key := sha256.Sum256([]byte(strings.Join(append([]string{config.TokenURL, config.ClientID, config.ClientSecret,
		config.EndpointParams.Encode()}, config.Scopes...), "\x00")))
	ts.mu.Lock()
	defer ts.mu.Unlock()
	g, ok := ts.byKey[key]
	if !ok {
		if len(ts.byKey) >= ts.max {
			clear(ts.byKey) // the living ones ask for a token once more
		}
		g = &grant{turn: make(chan struct{}, 1), config: config}
		ts.byKey[key] = g
	}
	return g
}

// get returns a token that is valid, asking for one where there is none. Others
// who need it wait for the one who asks.
func (g *grant) get(ctx context.Context, client *http.Client) (token string, asked bool, err error) {
	select {
	case g.turn <- struct{}{}:
	case <-ctx.Done():
		return "", false, ctx.Err()
	}
	defer func() { <-g.turn }()
	if g.token.Valid() {
		return g.token.AccessToken, false, nil
	}
	got, err := g.config.Token(context.WithValue(ctx, oauth2.HTTPClient, client))
	if err != nil {
		return "", true, err
	}
	if !isHeaderValue(got.AccessToken) {
		return "", true, errors.New("the token holds a control character")
	}
	g.token = got
	return got.AccessToken, true, nil
}

// drop forgets a token that the service refused, so that nobody uses it again.
func (g *grant) drop(ctx context.Context, refused string) {
	select {
	case g.turn <- struct{}{}:
	case <-ctx.Done():
		return
	}
	defer func() { <-g.turn }()
	if g.token != nil && g.token.AccessToken == refused {
		g.token = nil
	}
}

// prepareOAuth2 reads the client's credentials.
func (a *attempt) prepareOAuth2() error {
	auth := &a.call.Service.RunnerConfig.AuthConfig
	if a.route.token == nil {
		return a.config("auth_type oauth2 needs auth_config.token_url")
	}
	id, err := a.secret("client_id_env_var", auth.ClientIDEnvVar)
	if err != nil {
		return err
	}
	secret, err := a.secret("client_secret_env_var", auth.ClientSecretEnvVar)
	if err != nil {
		return err
	}
	a.hide(secret)
	a.hide(url.QueryEscape(id) + ":" + url.QueryEscape(secret)) // as it is sent
	config := clientcredentials.Config{ClientID: id, ClientSecret: secret, TokenURL: auth.TokenURL, Scopes: auth.Scopes}
	if auth.Audience != "" {
		config.EndpointParams = url.Values{"audience": {auth.Audience}}
	}
	a.grant = a.runner.tokens.of(config)
	a.private = append(a.private, "Authorization")
	return nil
}

// takeToken puts a token on the try that t is of. ctx is not the try's own: what
// happens on the way to the token must not look like the service's doing.
func (a *attempt) takeToken(ctx context.Context, t *timing) *failure {
	token, asked, err := a.grant.get(ctx, &http.Client{
		Transport:     a.route.token,
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	})
	if asked {
		t.token = time.Since(t.began)
	}
	if err != nil {
		return a.noToken(ctx, err)
	}
	if token != a.token {
		a.hide(token)
		a.token = token
		a.header = a.header.Clone() // an earlier try may still be reading it
		a.header.Set("Authorization", "Bearer "+token)
	}
	return nil
}

// noToken says why there is no token. The service itself was not reached, so
// trying again is safe whatever the request is.
func (a *attempt) noToken(ctx context.Context, err error) *failure {
	var refusal *runners.PolicyError
	if errors.As(err, &refusal) {
		return &failure{err: refusal, lasting: true, retryAfter: -1}
	}
	if cause := overdue(ctx); cause != nil {
		return &failure{err: a.ended(cause), lasting: true, retryAfter: -1}
	}
	at := "auth_config.token_url"
	if u, err := url.Parse(a.call.Service.RunnerConfig.AuthConfig.TokenURL); err == nil {
		at = a.show(u)
	}
	var answered *oauth2.RetrieveError
	if !errors.As(err, &answered) || answered.Response == nil {
		var u *url.Error
		if errors.As(err, &u) {
			err = u.Err
		}
		return &failure{err: &described{text: fmt.Sprintf("no access token: POST %s: %s", at, cleanText(a.secrets.mask(err.Error()), maxExcerpt)), err: err}, retryAfter: -1}
	}
	reason := answered.ErrorCode + " " + answered.ErrorDescription
	if answered.ErrorCode == "" {
		reason = string(answered.Body)
	}
	status := answered.Response.StatusCode
	text := fmt.Errorf("no access token: POST %s: it answered %d: %s", at, status, cleanText(a.secrets.mask(storable(reason)), maxExcerpt))
	if status >= 400 && !mayPass(status) {
		return refusedCredentials(fmt.Errorf("%w; check client_id_env_var, client_secret_env_var and scopes of auth_config", text))
	}
	return &failure{err: text, retryAfter: retryAfter(answered.Response.Header.Get("Retry-After"), a.runner.opts.Now())}
}

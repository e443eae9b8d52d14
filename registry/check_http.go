package registry

import (
	"errors"
	"net"
	"net/netip"
	"net/url"
	"regexp"
	"slices"
	"strings"

	"github.com/specql/specql-ops/jobs"
)

// http checks what an HTTP service, or the HTTP fallback of another type,
// needs.
func (c *checker) http() {
	rc, policy := &c.s.RunnerConfig, &c.s.SecurityPolicy
	list := c.n.path("security_policy", "allowed_domains")
	eachString(list, policy.AllowedDomains, func(n *node, v string) { c.domain(n, v) })
	networks := c.n.path("security_policy", "allowed_networks")
	eachString(networks, policy.AllowedNetworks, c.network)
	c.baseURL()
	c.auth()
	c.tls()
	c.proxy()
	headers := c.n.path("runner_config", "headers")
	if headers != nil && headers.kind == mapKind {
		for i := range headers.kids {
			c.header(&headers.kids[i], rc.Headers[headers.kids[i].key])
		}
	}
}

func (c *checker) baseURL() {
	rc, policy := &c.s.RunnerConfig, &c.s.SecurityPolicy
	n := c.n.path("runner_config", "base_url")
	if !given(n) {
		if c.s.ExecutionType != jobs.HTTP {
			return
		}
		at := orElse(c.n.get("runner_config"), c.n)
		if c.s.ExplicitType {
			c.fault(CodeMissing, at, "add base_url under runner_config; without execution_type it would run jobs that bring their endpoint",
				"a service that is explicitly http needs runner_config.base_url")
			return
		}
		// Services without base_url are what HTTP-only applications have.
		help := "add base_url under runner_config, or list the domains in security_policy.allowed_domains"
		if len(policy.AllowedDomains) > 0 {
			help = "add base_url under runner_config unless every job brings its endpoint"
		}
		c.warn(CodeUnreachable, at, help,
			"without base_url it runs only jobs whose input_data.endpoint is an absolute URL that allowed_domains permits")
		return
	}
	if n.kind != stringKind {
		return
	}
	u, ok := c.url(n, "base_url", rc.BaseURL)
	if !ok {
		return
	}
	c.host(n, "base_url", u)
	if u.RawQuery != "" || u.Fragment != "" {
		c.fault(CodeEnum, n, "put the query into the operation's path", "base_url has a query or a fragment, to which no path can be added")
	}
	if len(policy.AllowedDomains) > 0 && !hostAllowed(policy.AllowedDomains, u) {
		permit := u.Hostname()
		if n.exp != nil {
			permit = "its host"
		}
		c.fault(CodeNotAllowed, n, "add "+clip(permit)+" to security_policy.allowed_domains", "the host of base_url is not covered by allowed_domains")
	}
}

// url checks an absolute http or https URL. Nothing of it is quoted: it may
// hold a password.
func (c *checker) url(n *node, name, text string) (*url.URL, bool) {
	u, err := url.Parse(text)
	switch {
	case err != nil:
		c.fault(CodeEnum, n, "write it as https://host/path", "%s is not a URL", name)
	case u.Scheme != "http" && u.Scheme != "https":
		c.fault(CodeEnum, n, "write it as https://host/path", "%s is not an absolute http or https URL", name)
	case u.Hostname() == "":
		c.fault(CodeEnum, n, "write it as https://host/path", "%s has no host", name)
	case u.User != nil:
		c.fault(CodeSecret, n, "remove user and password, and use auth_type: basic with auth_config", "%s holds a user name or password", name)
	default:
		return u, true
	}
	return nil, false
}

// domain checks an entry of allowed_domains: a host name, *.example.com, a
// literal address or localhost, each with an optional :port.
func (c *checker) domain(n *node, entry string) {
	if strings.Contains(entry, "://") || strings.Contains(entry, "/") {
		help := "write the host alone"
		if u, err := url.Parse(entry); err == nil && u.Host != "" && n.exp == nil {
			help += ": " + clip(u.Host)
		}
		c.fault(CodeEnum, n, help, "an entry of allowed_domains is a host, not a URL")
		return
	}
	if entry == "*" {
		c.fault(CodeEnum, n, "list the hosts, or *.example.com for those below a domain", "allowed_domains cannot allow every host")
		return
	}
	if _, err := ParseDomain(entry); errors.Is(err, errUnusual) {
		host, port, err := net.SplitHostPort(entry)
		if err != nil {
			host = entry
		}
		c.unusual(n, host, port, shown(n)+" of allowed_domains")
	} else if err != nil {
		c.fault(CodeEnum, n, "write api.example.com, *.example.com, an address or localhost, with :port where needed",
			"%s is not a host", shown(n))
	}
}

// unusual reports an address that is spelled so that readers disagree on it: the
// agent would refuse each job.
func (c *checker) unusual(n *node, host, port, what string) {
	help := "write the address in its usual form, such as 127.0.0.1 or ::1"
	if plain := usual(host); plain != "" && n.exp == nil {
		if port != "" {
			plain = net.JoinHostPort(plain, port)
		}
		help = "write " + plain
	}
	c.fault(CodeEnum, n, help, "%s is an unusual spelling of an address, to which no job is sent", what)
}

// host checks the host of a URL to which jobs' requests go.
func (c *checker) host(n *node, name string, u *url.URL) {
	_, _, err := ParseHost(u.Hostname())
	_, badPort := PortOf(u)
	switch {
	case errors.Is(err, errUnusual):
		c.unusual(n, u.Hostname(), u.Port(), "the host of "+name)
	case err != nil:
		c.fault(CodeEnum, n, "write a host name of letters, digits, dots and dashes (xn-- for other alphabets), or an address", "the host of %s is not a host name", name)
	case badPort != nil:
		c.fault(CodeEnum, n, "write a port from 1 to 65535, or none", "%s has no valid port", name)
	case strings.Contains(n.value(), "\\"):
		c.fault(CodeEnum, n, "write / instead", "%s holds a backslash", name)
	}
}

// hostAllowed tells whether an entry of allowed_domains covers the URL's host.
// Entries that make no sense are reported where they stand.
func hostAllowed(entries []string, u *url.URL) bool {
	var list Domains
	for _, entry := range entries {
		if d, err := ParseDomain(entry); err == nil {
			list = append(list, d)
		}
	}
	name, addr, err := ParseHost(u.Hostname())
	port, badPort := PortOf(u)
	return err != nil || badPort != nil || list.Permits(name, addr, port)
}

func (c *checker) network(n *node, entry string) {
	p, err := netip.ParsePrefix(entry)
	switch {
	case err != nil:
		help := "write a prefix such as 10.0.0.0/8"
		if a, err := netip.ParseAddr(entry); err == nil && n.exp == nil {
			help = "write " + netip.PrefixFrom(a, a.BitLen()).String() + " for this one address"
		}
		c.fault(CodeEnum, n, help, "%s of allowed_networks is not a network in CIDR form", shown(n))
	case p.Masked() != p:
		help := "write the network's first address"
		if n.exp == nil {
			help = "write " + p.Masked().String()
		}
		c.fault(CodeEnum, n, help, "%s of allowed_networks has bits behind its prefix", shown(n))
	}
}

func (c *checker) header(k *kid, value string) {
	at := &node{line: k.line, col: k.col}
	if !headerName.MatchString(k.key) {
		c.fault(CodeEnum, at, "use letters, digits and -", "%q is not the name of an HTTP header", clip(k.key))
	}
	if k.node.exp != nil && k.node.exp.broken {
		return
	}
	if strings.ContainsAny(value, "\r\n\x00") {
		c.fault(CodeEnum, at, "write it on one line", "the header %s holds a line break", clip(k.key))
	}
	if secretName(k.key) && k.node.exp == nil && k.node.text != "" {
		c.warn(CodeSecret, k.node, "write ${VARIABLE} instead, or use auth_type with auth_config",
			"the header %s is written into the file", clip(k.key))
	}
}

var methods = []string{"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"}

// httpOperation checks method and path of an operation.
func (c *checker) httpOperation(op *Operation, n *node) {
	if m := n.get("method"); given(m) && m.kind == stringKind {
		if upper := strings.ToUpper(op.Method); upper != op.Method && slices.Contains(methods, upper) {
			c.fault(CodeEnum, m, "write method: "+upper, "the method %s must be in upper case", shown(m))
		} else {
			c.words(m, "method", methods...)
		}
	}
	if b := n.get("body"); given(b) {
		c.words(b, "body", "json", "form")
		if op.Body == "form" && slices.Contains([]string{"GET", "HEAD", "DELETE", "OPTIONS"}, op.Method) {
			c.warn(CodeIgnored, b, "remove it, or change method", "a %s request has no body: its input goes into the query", op.Method)
		}
	}
	p := n.get("path")
	if !given(p) || p.kind != stringKind {
		return
	}
	if strings.Contains(op.Path, "://") || strings.HasPrefix(op.Path, "//") {
		c.fault(CodeEnum, p, "write the path alone, such as /charges/{id}; the host is base_url's", "path is a whole URL")
		return
	}
	if !strings.HasPrefix(op.Path, "/") {
		c.fault(CodeEnum, p, "begin it with /", "path %s does not begin with /", shown(p))
	}
	for _, segment := range strings.Split(op.Path, "/") {
		if segment == ".." || segment == "." {
			c.fault(CodeEnum, p, "write the path without . and ..", "path %s leaves its directory", shown(p))
		}
	}
	c.template(op, p)
}

var templateField = regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9_]*(\.[A-Za-z_][A-Za-z0-9_]*)*$`)

// template checks the {field} parts of a path.
func (c *checker) template(op *Operation, n *node) {
	rest := op.Path
	for {
		i := strings.IndexAny(rest, "{}")
		if i < 0 {
			return
		}
		end := strings.IndexAny(rest[i+1:], "{}")
		if rest[i] == '}' || end < 0 || rest[i+1+end] == '{' {
			c.fault(CodeEnum, n, "write {field} with both braces", "path %s has a brace without its other", shown(n))
			return
		}
		name := rest[i+1 : i+1+end]
		rest = rest[i+2+end:]
		if !templateField.MatchString(name) {
			c.fault(CodeEnum, n, "write the name of a field of the input between the braces", "path %s holds {%s}, which names no field", shown(n), clip(name))
			continue
		}
		first, _, _ := strings.Cut(name, ".")
		if fields := schemaFields(op.InputSchema); len(fields) > 0 && !slices.Contains(fields, first) {
			help := "add it to input_schema"
			if near := nearest(first, fields); near != "" {
				help = "did you mean {" + near + "}?"
			}
			c.warn(CodeSchema, n, help, "path %s takes %s from the input, which input_schema does not have", shown(n), first)
		}
	}
}

package httpapi

import (
	"errors"
	"fmt"
	"net/netip"
	"net/url"
	"strconv"
	"strings"
	"syscall"

	"code.dny.dev/ssrf"

	"github.com/specql/specql-ops/registry"
	"github.com/specql/specql-ops/runners"
)

// azureWireServer is a cloud's metadata and control address that stands
// outside every special-purpose range
// (learn.microsoft.com, "What is IP address 168.63.129.16?").
var azureWireServer = netip.MustParsePrefix("168.63.129.16/32")

// policy is what one service's registry entry permits. It is read-only once
// made.
type policy struct {
	service  string
	domains  registry.Domains
	networks []netip.Prefix // allowed_networks: what names may resolve to beyond the public internet
	public   *ssrf.Guardian // refuses every special-purpose address

	// Credentials go unencrypted to loopback and allowed_networks alone.
	guarded bool // permitURL sees to it that http URLs may lead there
	proxied bool // where they lead a proxy decides
	clear   bool // what is dialled is for http URLs
}

const unencrypted = " (a service with credentials is called by https, unencrypted only at loopback and in allowed_networks)"

// forClear is the policy for connections that carry credentials in clear.
func (p *policy) forClear() *policy {
	clear := *p
	clear.clear = true
	return &clear
}

// newPolicy reads a service's security_policy. Without allowed_domains, the
// host of base, where there is one, is all that is permitted.
func newPolicy(s *registry.Service, base *url.URL) (*policy, error) {
	p := &policy{service: s.Name}
	var err error
	if p.domains, err = registry.ParseDomains(s.SecurityPolicy.AllowedDomains); err != nil {
		return nil, &runners.ConfigError{Service: s.Name, Problem: "security_policy." + err.Error()}
	}
	if len(p.domains) == 0 && base != nil {
		name, addr, err := registry.ParseHost(base.Hostname())
		if err != nil {
			return nil, &runners.ConfigError{Service: s.Name, Problem: fmt.Sprintf("runner_config.base_url: host %q %v", base.Hostname(), err)}
		}
		p.domains = registry.Domains{{Name: name, Addr: addr, Source: base.Hostname()}}
	}
	for _, network := range s.SecurityPolicy.AllowedNetworks {
		prefix, err := netip.ParsePrefix(network)
		if err != nil {
			return nil, &runners.ConfigError{Service: s.Name, Problem: fmt.Sprintf(
				"security_policy.allowed_networks: %q is not a network: write it like 10.0.0.0/8", network)}
		}
		p.networks = append(p.networks, prefix)
	}
	p.public = ssrf.New(ssrf.WithAnyPort(), ssrf.WithDeniedV4Prefixes(azureWireServer))
	return p, nil
}

// permitURL decides on the URL of a request before it is sent. narrowed is
// what the row asks for; nil when it asks nothing.
func (p *policy) permitURL(u *url.URL, narrowed registry.Domains) error {
	if u.Scheme != "http" && u.Scheme != "https" {
		return p.refuse(origin(u)+" (only http and https)", "")
	}
	if u.User != nil {
		return p.refuse(origin(u)+" (a user name or password in the URL)", "")
	}
	if u.Opaque != "" {
		return p.refuse(u.Scheme+": (a URL without //host)", "")
	}
	name, addr, err := registry.ParseHost(u.Hostname())
	if err != nil {
		return p.refuse(fmt.Sprintf("%s (the host %v)", origin(u), err), "")
	}
	port, err := registry.PortOf(u)
	if err != nil {
		return p.refuse(fmt.Sprintf("%s (it %v)", origin(u), err), "")
	}
	if !p.domains.Permits(name, addr, port) {
		return p.refuse(u.Host, p.permitDomain(name, addr, u.Host))
	}
	if p.guarded && u.Scheme == "http" && !p.mayBePrivate(name, addr) {
		return p.refuse(origin(u)+unencrypted, "")
	}
	if narrowed != nil && !narrowed.Permits(name, addr, port) {
		return p.refuse(u.Host+" (the job's own security_context leaves it out)", "")
	}
	return nil
}

// mayBePrivate tells whether a host can be one to which credentials may go
// unencrypted. Where a name leads is seen when it is dialled.
func (p *policy) mayBePrivate(name string, addr netip.Addr) bool {
	if addr.IsValid() {
		return addr.IsLoopback() || p.inNetworks(addr)
	}
	return name == "localhost" || len(p.networks) > 0 && !p.proxied
}

// permitDomain is the registry line that would let a host through; empty for
// an address that no one should list without thinking.
func (p *policy) permitDomain(name string, addr netip.Addr, host string) string {
	if addr.IsValid() && !addr.IsPrivate() && p.public.SafeAddr(addr) != nil {
		return ""
	}
	if name == "localhost" {
		return ""
	}
	quoted := make([]string, 0, len(p.domains)+1)
	for _, d := range p.domains {
		quoted = append(quoted, strconv.Quote(d.Source))
	}
	quoted = append(quoted, strconv.Quote(host))
	return "allowed_domains: [" + strings.Join(quoted, ", ") + "]"
}

func (p *policy) refuse(offered, permit string) error {
	return &runners.PolicyError{Service: p.service, Rule: "allowed_domains", Offered: offered, Permit: permit}
}

// control returns the hook that the dialer calls with each resolved address
// before it connects. host is the URL's host, which permitURL let through.
//
//   - A literal address was listed as such: it and nothing else is dialled.
//   - localhost was listed as such: it may mean the loopback addresses.
//   - Any other name may mean a public address or one in allowed_networks. An
//     address that allowed_domains lists is no leave for names: whoever
//     controls a permitted name's DNS must not choose among listed addresses.
func (p *policy) control(host string) func(network, address string, _ syscall.RawConn) error {
	name, literal, err := registry.ParseHost(host)
	return func(_, address string, _ syscall.RawConn) error {
		if err != nil {
			return p.refuse(host, "")
		}
		ap, err := netip.ParseAddrPort(address)
		if err != nil {
			return p.refuse(address, "")
		}
		addr := ap.Addr()
		switch {
		case literal.IsValid():
			if addr == literal {
				return nil
			}
		case p.clear && p.inNetworks(addr), p.clear && name == "localhost" && registry.IsLocalhost(addr):
			return nil
		case p.clear:
			return p.refuse(fmt.Sprintf("http://%s, which is %s%s", host, addr, unencrypted), "")
		case name == "localhost" && registry.IsLocalhost(addr), p.inNetworks(addr), p.public.SafeAddr(addr) == nil:
			return nil
		}
		refusal := &runners.PolicyError{
			Service: p.service, Rule: "allowed_networks",
			Offered: fmt.Sprintf("%s (%s)", host, addr),
		}
		if addr.IsPrivate() || addr.IsLoopback() {
			refusal.Permit = fmt.Sprintf("allowed_networks: [%q]", netip.PrefixFrom(addr, addr.BitLen()))
		}
		return refusal
	}
}

// inNetworks tells whether allowed_networks covers addr. A mapped address is
// never covered: an IPv6 network such as ::/0 would stand for all of IPv4.
func (p *policy) inNetworks(addr netip.Addr) bool {
	if addr.Is4In6() {
		return false
	}
	for _, prefix := range p.networks {
		if prefix.Contains(addr) {
			return true
		}
	}
	return false
}

// parseEndpoint reads a URL that a row or the registry gives, and refuses
// what readers of URLs disagree on.
func parseEndpoint(raw string) (*url.URL, error) {
	if strings.ContainsRune(raw, '\\') {
		return nil, errors.New("holds a backslash")
	}
	u, err := url.Parse(raw)
	if err != nil {
		// url.Parse's own error quotes the URL whole, secrets included.
		return nil, errors.New("is not a URL")
	}
	if u.Scheme == "" || u.Host == "" && u.Opaque == "" {
		return nil, errors.New("is not an absolute http or https URL")
	}
	return u, nil
}

// origin is where a URL leads, without what stands behind it.
func origin(u *url.URL) string {
	if u.Host == "" {
		return u.Scheme + ":"
	}
	return u.Scheme + "://" + u.Host
}

// show is how a URL appears in errors and logs: without user, query and fragment,
// which may hold secrets, and without those that its path is made of.
func (a *attempt) show(u *url.URL) string { return shown(u, a.secrets, a.paths) }

func shown(u *url.URL, secrets, paths secrets) string {
	return origin(u) + paths.mask(secrets.mask(u.EscapedPath()))
}

package httpapi

import (
	"fmt"
	"net/netip"
	"net/url"
	"strconv"
	"strings"
)

// domain is one entry of allowed_domains: a host name, *.example.com, a
// literal address or localhost, each with an optional port.
type domain struct {
	name   string     // lower case, without the wildcard; empty for an address
	sub    bool       // *.name: any name below it, not itself
	addr   netip.Addr // valid for a literal address
	port   uint16     // 0: any
	source string     // as the registry or the row spells it
}

// domains is a list of entries; what none of them covers is not permitted.
type domains []domain

// parseDomains reads allowed_domains. The error names the entry that makes no
// sense.
func parseDomains(entries []string) (domains, error) {
	list := make(domains, 0, len(entries))
	for _, entry := range entries {
		d, err := parseDomain(entry)
		if err != nil {
			return nil, fmt.Errorf("allowed_domains: %q %w", entry, err)
		}
		list = append(list, d)
	}
	return list, nil
}

func parseDomain(entry string) (domain, error) {
	d := domain{source: entry}
	host := entry
	if addr, err := netip.ParseAddr(entry); err == nil && addr.Is6() {
		// A bare IPv6 address: its colons are not a port's.
		host = "[" + entry + "]"
	} else if i := strings.LastIndexByte(entry, ':'); i > strings.LastIndexByte(entry, ']') {
		port, err := strconv.ParseUint(entry[i+1:], 10, 16)
		if err != nil || port == 0 {
			return d, fmt.Errorf("is not a host name: write example.com, *.example.com, an address or localhost, optionally with :port")
		}
		host, d.port = entry[:i], uint16(port)
	}
	if rest, ok := strings.CutPrefix(host, "*."); ok {
		host, d.sub = rest, true
	}
	name, addr, err := parseHost(strings.TrimSuffix(strings.TrimPrefix(host, "["), "]"))
	if err != nil {
		return d, err
	}
	if d.sub && addr.IsValid() {
		return d, fmt.Errorf("puts a wildcard before an address")
	}
	d.name, d.addr = name, addr
	return d, nil
}

// parseHost takes a URL's or an entry's host, without port or brackets, as
// either a name in its one canonical form or an address. Spellings of an
// address that some resolvers understand and others do not (octal, hexadecimal,
// one number, shortened, mapped, with a zone or a dot at its end) are refused:
// two readers must never disagree on where a request goes.
func parseHost(host string) (name string, addr netip.Addr, err error) {
	if addr, err := netip.ParseAddr(host); err == nil {
		if addr.Is4In6() || addr.Zone() != "" {
			return "", netip.Addr{}, fmt.Errorf("is an unusual spelling of an address")
		}
		return "", addr, nil
	}
	name = strings.ToLower(strings.TrimSuffix(host, "."))
	if name == "" || len(name) > 253 {
		return "", netip.Addr{}, fmt.Errorf("is not a host name")
	}
	label := ""
	for rest, more := name, true; more; {
		label, rest, more = strings.Cut(rest, ".")
		if label == "" || len(label) > 63 || !isLabel(label) {
			return "", netip.Addr{}, fmt.Errorf("is not a host name: use letters, digits, dots and dashes (xn-- for other alphabets)")
		}
	}
	// The WHATWG URL standard's "ends in a number": such a host is an address
	// to some, so it is never a name here.
	if isNumber(label) {
		return "", netip.Addr{}, fmt.Errorf("is an unusual spelling of an address")
	}
	return name, netip.Addr{}, nil
}

func isLabel(s string) bool {
	for i := range len(s) {
		c := s[i]
		if (c < 'a' || c > 'z') && (c < '0' || c > '9') && c != '-' && c != '_' {
			return false
		}
	}
	return true
}

func isNumber(label string) bool {
	if rest, ok := strings.CutPrefix(label, "0x"); ok {
		return strings.Trim(rest, "0123456789abcdef") == ""
	}
	return strings.Trim(label, "0123456789") == ""
}

// permits tells whether an entry covers the host and port. The entry localhost
// also stands for the two addresses that it means.
func (l domains) permits(name string, addr netip.Addr, port uint16) bool {
	for _, d := range l {
		if d.port != 0 && d.port != port {
			continue
		}
		switch {
		case d.addr.IsValid():
			if d.addr == addr {
				return true
			}
		case d.sub:
			if len(name) > len(d.name) && strings.HasSuffix(name, d.name) && name[len(name)-len(d.name)-1] == '.' {
				return true
			}
		case addr.IsValid():
			if d.name == "localhost" && isLocalhost(addr) {
				return true
			}
		case d.name == name:
			return true
		}
	}
	return false
}

func isLocalhost(addr netip.Addr) bool {
	return addr == netip.AddrFrom4([4]byte{127, 0, 0, 1}) || addr == netip.IPv6Loopback()
}

func (l domains) sources() []string {
	names := make([]string, len(l))
	for i, d := range l {
		names[i] = d.source
	}
	return names
}

// port is the one that u's request goes to.
func portOf(u *url.URL) (uint16, error) {
	switch p := u.Port(); {
	case p != "":
		n, err := strconv.ParseUint(p, 10, 16)
		if err != nil || n == 0 {
			return 0, fmt.Errorf("has no valid port")
		}
		return uint16(n), nil
	case u.Scheme == "https":
		return 443, nil
	default:
		return 80, nil
	}
}

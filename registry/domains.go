package registry

import (
	"errors"
	"fmt"
	"net/netip"
	"net/url"
	"strconv"
	"strings"
)

// Domain is one entry of allowed_domains: a host name, *.example.com, a
// literal address or localhost, each with an optional port. What reads a file and
// what runs its jobs understand entries by the same functions.
type Domain struct {
	Name   string     // lower case, without the wildcard; empty for an address
	Sub    bool       // *.name: any name below it, not itself
	Addr   netip.Addr // valid for a literal address
	Port   uint16     // 0: any
	Source string     // as the registry or the row spells it
}

// errUnusual is an address as some readers understand it and others do not.
var errUnusual = errors.New("is an unusual spelling of an address")

// Domains is a list of entries; what none of them covers is not permitted.
type Domains []Domain

// ParseDomains reads allowed_domains. The error names the entry that makes no
// sense.
func ParseDomains(entries []string) (Domains, error) {
	list := make(Domains, 0, len(entries))
	for _, entry := range entries {
		d, err := ParseDomain(entry)
		if err != nil {
			return nil, fmt.Errorf("allowed_domains: %q %w", entry, err)
		}
		list = append(list, d)
	}
	return list, nil
}

// ParseDomain reads one entry. The error says what it is instead of a host.
func ParseDomain(entry string) (Domain, error) {
	d := Domain{Source: entry}
	host := entry
	if addr, err := netip.ParseAddr(entry); err == nil && addr.Is6() {
		// A bare IPv6 address: its colons are not a port's.
		host = "[" + entry + "]"
	} else if i := strings.LastIndexByte(entry, ':'); i > strings.LastIndexByte(entry, ']') {
		port, err := strconv.ParseUint(entry[i+1:], 10, 16)
		if err != nil || port == 0 {
			return d, fmt.Errorf("is not a host name: write example.com, *.example.com, an address or localhost, optionally with :port")
		}
		host, d.Port = entry[:i], uint16(port)
	}
	if rest, ok := strings.CutPrefix(host, "*."); ok {
		host, d.Sub = rest, true
	}
	name, addr, err := ParseHost(strings.TrimSuffix(strings.TrimPrefix(host, "["), "]"))
	if err != nil {
		return d, err
	}
	if d.Sub && addr.IsValid() {
		return d, fmt.Errorf("puts a wildcard before an address")
	}
	d.Name, d.Addr = name, addr
	return d, nil
}

// ParseHost takes a URL's or an entry's host, without port or brackets, as
// either a name in its one canonical form or an address. Spellings of an
// address that some resolvers understand and others do not (octal, hexadecimal,
// one number, shortened, mapped, with a zone or a dot at its end) are refused:
// two readers must never disagree on where a request goes.
func ParseHost(host string) (name string, addr netip.Addr, err error) {
	if addr, err := netip.ParseAddr(host); err == nil {
		if addr.Is4In6() || addr.Zone() != "" {
			return "", netip.Addr{}, errUnusual
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
		return "", netip.Addr{}, errUnusual
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

// Permits tells whether an entry covers the host and port. The entry localhost
// also stands for the two addresses that it means.
func (l Domains) Permits(name string, addr netip.Addr, port uint16) bool {
	for _, d := range l {
		if d.Port != 0 && d.Port != port {
			continue
		}
		switch {
		case d.Addr.IsValid():
			if d.Addr == addr {
				return true
			}
		case d.Sub:
			if len(name) > len(d.Name) && strings.HasSuffix(name, d.Name) && name[len(name)-len(d.Name)-1] == '.' {
				return true
			}
		case addr.IsValid():
			if d.Name == "localhost" && IsLocalhost(addr) {
				return true
			}
		case d.Name == name:
			return true
		}
	}
	return false
}

// IsLocalhost tells whether addr is one of the two that localhost means.
func IsLocalhost(addr netip.Addr) bool {
	return addr == netip.AddrFrom4([4]byte{127, 0, 0, 1}) || addr == netip.IPv6Loopback()
}

// Sources are the entries as they are spelled.
func (l Domains) Sources() []string {
	names := make([]string, len(l))
	for i, d := range l {
		names[i] = d.Source
	}
	return names
}

// PortOf is the port that u's request goes to.
func PortOf(u *url.URL) (uint16, error) {
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

// usual is how an address is written that is spelled unusually, as inet_aton or a
// resolver reads it; empty for what is none.
func usual(host string) string {
	host = strings.Trim(host, "[]")
	if addr, err := netip.ParseAddr(host); err == nil {
		return addr.WithZone("").Unmap().String()
	}
	parts := strings.Split(strings.TrimSuffix(host, "."), ".")
	if len(parts) > 4 {
		return ""
	}
	var address uint64
	for i, part := range parts {
		n, err := strconv.ParseUint(part, 0, 32) // 0x7f, 0177 and 127
		bits := 8
		if i == len(parts)-1 {
			bits = 8 * (5 - len(parts)) // the last one is all that is left
		}
		if err != nil || n>>bits > 0 {
			return ""
		}
		address = address<<bits | n
	}
	return netip.AddrFrom4([4]byte{byte(address >> 24), byte(address >> 16), byte(address >> 8), byte(address)}).String()
}

package registry

import "strings"

// Hidden is a value that a variable or a file gave to what is sent to an http
// service. It is shown to nobody, and masked where the service repeats it.
type Hidden struct {
	Text string
	// InURLs says that only the service's own URLs are to be shown without it:
	// nothing says that it is a secret, and an answer that has the same text, such
	// as a date or the beginning of a link, must not be changed.
	InURLs bool
}

// leastHidden is the least length, in bytes, of a value that URLs are shown without
// though neither the name of its variable nor a file says that it is a secret:
// what is shorter, such as a region, would be found in everything.
const leastHidden = 8

// hidden collects what variables gave to a service's headers and to the paths and
// queries of its URLs. Hosts are shown.
func hidden(service *node) (all []Hidden) {
	each := func(n *node, inURL bool, from int) {
		if n == nil || n.exp == nil {
			return
		}
		for _, v := range n.exp.values {
			skip := min(max(0, from-v.at), len(v.text))
			text := strings.Trim(v.text[skip:], "/")
			if text != "" && (v.secret || inURL && len(text) >= leastHidden) {
				all = append(all, Hidden{text, !v.secret})
			}
		}
	}
	config := service.get("runner_config")
	for _, n := range []*node{config.get("base_url"), config.path("auth_config", "token_url")} {
		if n != nil {
			each(n, true, pathBegins(n.value()))
		}
	}
	if headers := config.get("headers"); headers != nil {
		for i := range headers.kids {
			each(headers.kids[i].node, false, 0)
		}
	}
	if operations := service.get("operations"); operations != nil {
		for i := range operations.kids {
			each(operations.kids[i].node.get("path"), true, 0)
		}
	}
	return all
}

// pathBegins is where the path of a URL begins; its length where it has none.
func pathBegins(url string) int {
	_, rest, ok := strings.Cut(url, "://")
	if !ok {
		return 0
	}
	if i := strings.IndexAny(rest, "/?#"); i >= 0 {
		return len(url) - len(rest) + i
	}
	return len(url)
}

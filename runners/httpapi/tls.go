package httpapi

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"os"
	"strconv"

	"github.com/specql/specql-ops/registry"
)

// newTLS is a service's side of TLS: whom it trusts, and who it says that it
// is.
func newTLS(files registry.TLSConfig, opts Options) (*tls.Config, error) {
	config := &tls.Config{MinVersion: tls.VersionTLS12, RootCAs: opts.RootCAs}
	if files.CAFile != "" {
		pem, err := os.ReadFile(files.CAFile)
		if err != nil {
			return nil, fmt.Errorf("runner_config.tls.ca_file cannot be read: %w", err)
		}
		config.RootCAs = x509.NewCertPool()
		if !config.RootCAs.AppendCertsFromPEM(pem) {
			return nil, fmt.Errorf("runner_config.tls.ca_file %s holds no certificate in PEM form", files.CAFile)
		}
	}
	switch {
	case files.CertFile == "" && files.KeyFile == "":
		return config, nil
	case files.CertFile == "" || files.KeyFile == "":
		return nil, errors.New("runner_config.tls needs both cert_file and key_file for a client certificate")
	}
	pair, err := tls.LoadX509KeyPair(files.CertFile, files.KeyFile)
	if err != nil {
		return nil, fmt.Errorf("runner_config.tls.cert_file and key_file make no client certificate: %w", err)
	}
	config.Certificates = []tls.Certificate{pair}
	return config, nil
}

// appendFiles writes which files a service's TLS is made of, and when they
// last changed: a renewed certificate is another identity.
func appendFiles(b []byte, files registry.TLSConfig) []byte {
	for _, path := range [...]string{files.CAFile, files.CertFile, files.KeyFile} {
		b = append(append(b, path...), 0)
		if path == "" {
			continue
		}
		if info, err := os.Stat(path); err == nil {
			b = strconv.AppendInt(append(strconv.AppendInt(b, info.ModTime().UnixNano(), 36), ' '), info.Size(), 36)
		}
		b = append(b, 0)
	}
	return b
}

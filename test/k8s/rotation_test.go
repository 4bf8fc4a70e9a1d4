package k8s_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"math/big"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/crosspod/crosspod/test/k8s/load"
)

// certificate writes a self-signed certificate for load.ServerName to two files.
func certificate(t *testing.T, serial int64) (cert, key string) {
	t.Helper()
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(serial), Subject: pkix.Name{CommonName: load.ServerName}, DNSNames: []string{load.ServerName},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(24 * time.Hour * time.Duration(serial)), IsCA: true, BasicConstraintsValid: true,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, private.Public(), private)
	if err != nil {
		t.Fatal(err)
	}
	pkcs8, err := x509.MarshalPKCS8PrivateKey(private)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	cert, key = filepath.Join(dir, "tls.crt"), filepath.Join(dir, "tls.key")
	for file, block := range map[string]*pem.Block{cert: {Type: "CERTIFICATE", Bytes: der}, key: {Type: "PRIVATE KEY", Bytes: pkcs8}} {
		if err := os.WriteFile(file, pem.EncodeToMemory(block), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return cert, key
}

// secretOf returns the secrets that the chart has made, of auth or cluster.
func (r *release) secretOf(t *testing.T, kind string) string {
	t.Helper()
	return strings.TrimSpace(r.kubectl(t, "get", "secret", r.name+"-"+kind, "-o", "go-template={{.data.secrets | base64decode}}"))
}

// refresh makes the kubelets look at the mounted Secrets now, not within a minute:
// they do when a pod changes.
func (r *release) refresh(t *testing.T) {
	t.Helper()
	r.kubectl(t, "annotate", "pods", "-l", "app.kubernetes.io/instance="+r.name, "--overwrite", fmt.Sprintf("test/refresh=%d", time.Now().UnixNano()))
}

// TestRotation changes both secrets, by helm upgrade and by changing the Secret,
// and the certificate, under load. Nothing is lost and no pod is restarted.
func TestRotation(t *testing.T) {
	ns := namespace(t)
	tlsSecret := func(serial int64) string {
		cert, key := certificate(t, serial)
		run(t, run(t, "", "kubectl", "-n", ns, "create", "secret", "tls", "certificate", "--cert="+cert, "--key="+key, "--dry-run=client", "-o", "yaml"), "kubectl", "apply", "-f", "-")
		b, err := os.ReadFile(cert)
		if err != nil {
			t.Fatal(err)
		}
		return string(b)
	}
	ca := tlsSecret(1)
	args := []string{"--set", "exposedAddress=rels://" + load.ServerName + ":443,tls.existingSecret=certificate"}
	r := installAs(t, ns, "relay", lab(t).image, args...)
	r.ca = ca
	eventually(t, "full mesh", func() error { return r.mesh(t.Context(), 3) })
	pods := r.kubectl(t, "get", "pods", "-l", "app.kubernetes.io/instance="+r.name, "-o", "name")
	p := r.talk(t)
	pause(steady)

	// By helm upgrade: a second secret of each kind, before the first.
	oldCluster := r.secretOf(t, "cluster")
	newAuth, newCluster := strings.Repeat("newAuth", 6), strings.Repeat("newCluster", 6)
	both := append(args, "--set", fmt.Sprintf("auth.secrets={%s,%s},cluster.secrets={%s,%s}", newAuth, r.secret, newCluster, oldCluster))
	r.helm(t, "upgrade", r.lab.image, both...)
	r.refresh(t)
	eventually(t, "every pod has two cluster secrets", func() error { return r.each(t, func(f figures) error { return f.secrets(2) }) })
	// By changing the Secret: the old ones go.
	r.kubectl(t, "patch", "secret", r.name+"-cluster", "-p", fmt.Sprintf(`{"stringData":{"secrets":"%s\n"}}`, newCluster))
	r.kubectl(t, "patch", "secret", r.name+"-auth", "-p", fmt.Sprintf(`{"stringData":{"secrets":"%s\n"}}`, newAuth))
	r.refresh(t)
	eventually(t, "every pod has the new cluster secret alone", func() error { return r.each(t, func(f figures) error { return f.secrets(1) }) })
	// The certificate.
	tlsSecret(2)
	r.refresh(t)
	eventually(t, "new connections see the new certificate", func() error {
		for _, pod := range r.pods(t) {
			c, err := tls.Dial("tcp", pod.Status.PodIP+":8443", &tls.Config{InsecureSkipVerify: true})
			if err != nil {
				return err
			}
			serial := c.ConnectionState().PeerCertificates[0].SerialNumber
			_ = c.Close() // it was only looked at
			if serial.Int64() != 2 {
				return fmt.Errorf("%s serves certificate %v", pod.Metadata.Name, serial)
			}
		}
		return nil
	})
	pause(steady)
	report, _ := p.end(t, "6. both secrets and the certificate replaced")
	nothingLost(t, report)
	if n := report[load.Ours].Reconnects; n > 0 {
		t.Errorf("%d reconnects, want none", n)
	}
	if now := r.kubectl(t, "get", "pods", "-l", "app.kubernetes.io/instance="+r.name, "-o", "name"); now != pods {
		t.Errorf("pods were replaced: %s, before %s", now, pods)
	}
	if err := r.mesh(t.Context(), 3); err != nil {
		t.Error(err)
	}
}

// each calls check with the metrics of every pod.
func (r *release) each(t *testing.T, check func(figures) error) error {
	t.Helper()
	for _, p := range r.pods(t) {
		f, err := scrape(t.Context(), p.Status.PodIP)
		if err == nil {
			err = check(f)
		}
		if err != nil {
			return fmt.Errorf("%s: %w", p.Metadata.Name, err)
		}
	}
	return nil
}

// total adds a metric over all pods.
func (r *release) total(t *testing.T, metric string) (total float64) {
	t.Helper()
	if err := r.each(t, func(f figures) error { total += f.sum(metric); return nil }); err != nil {
		t.Fatal(err)
	}
	return total
}

// secrets checks how many cluster secrets a pod has.
func (f figures) secrets(want int) error {
	n := 0
	for name, v := range f {
		if strings.HasPrefix(name, "relay_cluster_secret{") && v > 0 {
			n++
		}
	}
	if n != want {
		return fmt.Errorf("%d cluster secrets, want %d", n, want)
	}
	return nil
}

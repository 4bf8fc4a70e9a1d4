package main

import (
	"archive/tar"
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"testing"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	"github.com/google/go-containerregistry/pkg/v1/validate"
)

// program builds the smallest program for linux.
func program(t *testing.T, arch, cgo string) string {
	t.Helper()
	dir := t.TempDir()
	for file, text := range map[string]string{"go.mod": "module example.com/hello\n", "main.go": "package main\n\nfunc main() {}\n"} {
		if err := os.WriteFile(filepath.Join(dir, file), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	cmd := exec.CommandContext(t.Context(), "go", "build", "-trimpath", "-o", "hello_"+arch, ".")
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "GOOS=linux", "GOARCH="+arch, "CGO_ENABLED="+cgo)
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	return filepath.Join(dir, "hello_"+arch)
}

// The same programs, built twice in different folders, give the same archive, which
// both kinds of readers accept.
func TestImage(t *testing.T) {
	tag, err := name.NewTag("localhost/hello:test")
	if err != nil {
		t.Fatal(err)
	}
	var outs []string
	for range 2 {
		out := filepath.Join(t.TempDir(), "image")
		if err := write(tag, out, []string{program(t, "amd64", "0"), program(t, "arm64", "0")}); err != nil {
			t.Fatal(err)
		}
		outs = append(outs, out)
	}
	if !bytes.Equal(read(t, outs[0]+".tar"), read(t, outs[1]+".tar")) {
		t.Error("the second archive differs from the first")
	}

	top, err := layout.ImageIndexFromPath(outs[0])
	if err != nil {
		t.Fatal(err)
	}
	if err := validate.Index(top); err != nil {
		t.Error(err)
	}
	named, err := top.IndexManifest()
	if err != nil || len(named.Manifests) != 1 {
		t.Fatalf("%v, %v: want one index", named, err)
	}
	index, err := top.ImageIndex(named.Manifests[0].Digest)
	if err != nil {
		t.Fatal(err)
	}
	manifest, err := index.IndexManifest()
	if err != nil {
		t.Fatal(err)
	}
	var platforms []string
	for _, m := range manifest.Manifests {
		platforms = append(platforms, m.Platform.String())
		img, err := index.Image(m.Digest)
		if err != nil {
			t.Fatal(err)
		}
		check(t, img)
	}
	if want := []string{"linux/amd64", "linux/arm64"}; !slices.Equal(platforms, want) {
		t.Errorf("platforms %q, want %q", platforms, want)
	}
	ofDocker, err := tarball.ImageFromPath(outs[0]+".tar", &tag)
	if err != nil {
		t.Fatal(err)
	}
	check(t, ofDocker)
}

// check looks at what a container of img would have.
func check(t *testing.T, img v1.Image) {
	t.Helper()
	config, err := img.ConfigFile()
	if err != nil {
		t.Fatal(err)
	}
	if c := config.Config; c.User != "65532:65532" || !slices.Equal(c.Entrypoint, []string{"/hello"}) || c.Labels["org.opencontainers.image.title"] != "hello" {
		t.Errorf("config %+v", c)
	}
	var files []string
	r := tar.NewReader(mutate.Extract(img))
	for {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			t.Fatal(err)
		}
		files = append(files, h.FileInfo().Mode().String()+" "+h.Name)
	}
	slices.Sort(files)
	want, _ := json.Marshal([]string{"-rw-r--r-- etc/ssl/certs/ca-certificates.crt", "-rwxr-xr-x hello", "drwxr-xr-x etc", "drwxr-xr-x etc/ssl", "drwxr-xr-x etc/ssl/certs"})
	if got, _ := json.Marshal(files); !bytes.Equal(got, want) {
		t.Errorf("files %s, want %s", got, want)
	}
}

// A program that needs libraries would not start in the image.
func TestNotStatic(t *testing.T) {
	tag, err := name.NewTag("localhost/hello:test")
	if err != nil {
		t.Fatal(err)
	}
	if err := write(tag, filepath.Join(t.TempDir(), "image"), []string{program(t, "amd64", "1")}); err == nil {
		t.Error("a program built with cgo is packed")
	}
}

func read(t *testing.T, file string) []byte {
	t.Helper()
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	return text
}

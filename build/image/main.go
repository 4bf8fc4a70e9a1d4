// Command image packs builds of one program, one for each architecture, into a
// container image. It needs no container engine and no registry:
//
//	image -name ghcr.io/crosspod/relay:dev -o dist/image dist/relay_linux_amd64 dist/relay_linux_arm64
//
// It writes an OCI layout, dist/image, and dist/image.tar, which holds the same and
// is also what every version of `docker load` reads. The image consists of the program
// and the public certificate authorities. What it says of itself (platform, version,
// revision, time) is what the Go toolchain recorded in the program, so the same
// programs give the same image, byte for byte. See ADR-0039.
package main

import (
	"archive/tar"
	"bytes"
	"debug/buildinfo"
	"encoding/json"
	"encoding/pem"
	"errors"
	"flag"
	"fmt"
	"io"
	"log"
	"os"
	"path"
	"path/filepath"
	"runtime"
	"strings"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	"github.com/google/go-containerregistry/pkg/v1/types"
	"golang.org/x/crypto/x509roots/fallback/bundle"
)

// user is who the program runs as by default. It is a number because Kubernetes can
// see only of a number that it is not root.
const user = "65532:65532"

func main() {
	log.SetFlags(0)
	log.SetPrefix("image: ")
	ref := flag.String("name", "", "name and tag of the image")
	out := flag.String("o", "dist/image", "folder for the OCI layout, replaced if it exists; the archive is written beside it")
	flag.Parse()
	tag, err := name.NewTag(*ref)
	if err == nil {
		err = write(tag, *out, flag.Args())
	}
	if err != nil {
		log.Fatal(err)
	}
}

// write packs the programs into the folder out and the archive out.tar, and prints
// digests and sizes.
func write(tag name.Tag, out string, programs []string) error {
	if len(programs) == 0 {
		return errors.New("no program to pack")
	}
	index := mutate.IndexMediaType(empty.Index, types.OCIImageIndex)
	var lines strings.Builder
	var ofDocker []byte // manifest.json, for versions of docker load that read no index
	for _, file := range programs {
		p, err := pack(file)
		if err != nil {
			return fmt.Errorf("%s: %w", file, err)
		}
		index = mutate.AppendManifests(index, mutate.IndexAddendum{Add: p.image, Descriptor: v1.Descriptor{Platform: &p.platform}}).(v1.ImageIndex)
		index = mutate.Annotations(index, p.about).(v1.ImageIndex)
		manifest, err := p.image.Manifest()
		if err != nil {
			return err
		}
		size, layers := int64(0), []string(nil)
		for _, l := range manifest.Layers {
			size += l.Size
			layers = append(layers, blob(l.Digest))
		}
		digest, err := p.image.Digest()
		if err != nil {
			return err
		}
		fmt.Fprintf(&lines, "%s  %s  %.1f MB\n", digest, p.platform, float64(size)/1e6)
		if ofDocker == nil || p.platform.Architecture == runtime.GOARCH {
			ofDocker, err = json.Marshal(tarball.Manifest{{Config: blob(manifest.Config.Digest), RepoTags: []string{tag.Name()}, Layers: layers}})
			if err != nil {
				return err
			}
		}
	}
	digest, err := index.Digest()
	if err != nil {
		return err
	}
	if err := os.RemoveAll(out); err != nil {
		return err
	}
	folder, err := layout.Write(out, empty.Index)
	if err != nil {
		return err
	}
	if err := folder.AppendIndex(index, layout.WithAnnotations(map[string]string{
		"org.opencontainers.image.ref.name": tag.TagStr(), // for podman and skopeo
		"io.containerd.image.name":          tag.Name(),   // for containerd and newer docker load
	})); err != nil {
		return err
	}
	if err := archive(out, ofDocker); err != nil {
		return err
	}
	fmt.Printf("%s  %s\n%s", digest, tag.Name(), &lines)
	return nil
}

// blob returns where an OCI layout has the blob.
func blob(h v1.Hash) string { return path.Join("blobs", h.Algorithm, h.Hex) }

// packed is the image of one program.
type packed struct {
	image    v1.Image
	platform v1.Platform
	about    map[string]string
}

// pack returns the image of the program in file.
func pack(file string) (packed, error) {
	program, err := os.ReadFile(file)
	if err != nil {
		return packed{}, err
	}
	build, err := buildinfo.Read(bytes.NewReader(program))
	if err != nil {
		return packed{}, err
	}
	recorded := map[string]string{"vcs.revision": "unknown", "vcs.time": "1970-01-01T00:00:00Z"}
	for _, s := range build.Settings {
		recorded[s.Key] = s.Value
	}
	if recorded["CGO_ENABLED"] != "0" {
		return packed{}, errors.New("it is not static: build it with CGO_ENABLED=0")
	}
	created, err := time.Parse(time.RFC3339, recorded["vcs.time"])
	if err != nil {
		return packed{}, err
	}
	command := path.Base(build.Path)
	p := packed{
		platform: v1.Platform{OS: recorded["GOOS"], Architecture: recorded["GOARCH"]},
		about: map[string]string{
			"org.opencontainers.image.title":       command,
			"org.opencontainers.image.description": "Crosspod, a relay for programs that cannot be dialled",
			"org.opencontainers.image.source":      "https://" + build.Main.Path,
			"org.opencontainers.image.licenses":    "Apache-2.0",
			"org.opencontainers.image.version":     strings.Trim(build.Main.Version, "()"), // (devel) outside a git clone
			"org.opencontainers.image.revision":    recorded["vcs.revision"],
			"org.opencontainers.image.created":     created.Format(time.RFC3339),
		},
	}
	authorities, err := layer(content{"etc/ssl/certs/ca-certificates.crt", 0o644, roots()})
	if err != nil {
		return packed{}, err
	}
	itself, err := layer(content{command, 0o755, program})
	if err != nil {
		return packed{}, err
	}
	base := mutate.ConfigMediaType(mutate.MediaType(empty.Image, types.OCIManifestSchema1), types.OCIConfigJSON)
	p.image, err = mutate.ConfigFile(base, &v1.ConfigFile{
		OS: p.platform.OS, Architecture: p.platform.Architecture,
		Created: v1.Time{Time: created},
		RootFS:  v1.RootFS{Type: "layers"},
		Config:  v1.Config{Entrypoint: []string{"/" + command}, User: user, WorkingDir: "/", Labels: p.about},
	})
	if err != nil {
		return packed{}, err
	}
	// The authorities change less often than the program, and are fetched once.
	p.image, err = mutate.AppendLayers(p.image, authorities, itself)
	p.image = mutate.Annotations(p.image, p.about).(v1.Image)
	return p, err
}

// roots returns the public certificate authorities that Mozilla trusts, PEM. One that
// it trusts only for older certificates is left out: PEM cannot say so.
func roots() []byte {
	var all bytes.Buffer
	for root := range bundle.Roots() {
		if root.Constraint == nil {
			_ = pem.Encode(&all, &pem.Block{Type: "CERTIFICATE", Bytes: root.Certificate}) // a Buffer takes everything
		}
	}
	return all.Bytes()
}

// content is one file of an image.
type content struct {
	path string
	mode int64
	data []byte
}

// layer returns a layer of one file and the folders above it. Its times are those of
// 1970, so that the same content is the same layer.
func layer(c content) (v1.Layer, error) {
	var all bytes.Buffer
	w := tar.NewWriter(&all)
	for i, char := range c.path {
		if char == '/' {
			if err := w.WriteHeader(&tar.Header{Typeflag: tar.TypeDir, Name: c.path[:i+1], Mode: 0o755, ModTime: time.Unix(0, 0)}); err != nil {
				return nil, err
			}
		}
	}
	if err := add(w, c); err != nil {
		return nil, err
	}
	if err := w.Close(); err != nil {
		return nil, err
	}
	return tarball.LayerFromOpener(func() (io.ReadCloser, error) {
		return io.NopCloser(bytes.NewReader(all.Bytes())), nil
	}, tarball.WithMediaType(types.OCILayer))
}

// archive writes the OCI layout in folder and manifest.json into folder.tar.
func archive(folder string, manifest []byte) error {
	file, err := os.Create(folder + ".tar")
	if err != nil {
		return err
	}
	defer file.Close()
	w := tar.NewWriter(file)
	err = filepath.WalkDir(folder, func(name string, d os.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		data, err := os.ReadFile(name)
		if err != nil {
			return err
		}
		inside, err := filepath.Rel(folder, name)
		if err != nil {
			return err
		}
		return add(w, content{filepath.ToSlash(inside), 0o644, data})
	})
	return errors.Join(err, add(w, content{"manifest.json", 0o644, manifest}), w.Close(), file.Close())
}

// add writes a file.
func add(w *tar.Writer, c content) error {
	if err := w.WriteHeader(&tar.Header{Name: c.path, Mode: c.mode, Size: int64(len(c.data)), ModTime: time.Unix(0, 0)}); err != nil {
		return err
	}
	_, err := w.Write(c.data)
	return err
}

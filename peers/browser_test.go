package peers

import (
	"context"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"github.com/chromedp/cdproto/network"
	"github.com/chromedp/cdproto/security"
	"github.com/chromedp/chromedp"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/polytls/polytls/tlstest"
)

// TestBrowser loads the page of `polytls serve --page` in headless Chromium, which
// verifies the certificate, and compares what the browser's developer tools say
// about the connection with what the page itself says.
func TestBrowser(t *testing.T) {
	needsEverything(t, "browser")
	chromium := program(t, "chromium")
	f := newFixtures(t, tlstest.ECDSA)
	for _, p := range available() {
		for _, version := range []string{"1.2", "1.3"} {
			t.Run(p.Name()+"/TLS "+version, func(t *testing.T) {
				s := serve(t, "--provider", p.Name(), "--cert", f.serverCert, "--key", f.serverKey, "--page", "--max-version", version)
				browser := startBrowser(t, chromium, f)
				seen, page, screenshot := browser.load(t, "https://"+hostName+":"+s.port+"/")

				require.NotNil(t, seen.SecurityDetails, "no TLS")
				assert.Equal(t, security.StateSecure, seen.SecurityState)
				assert.EqualValues(t, 200, seen.Status)
				assert.Equal(t, "h2", seen.Protocol)
				assert.Equal(t, "TLS "+version, seen.SecurityDetails.Protocol)
				assert.Equal(t, "server", seen.SecurityDetails.SubjectName)
				assert.Equal(t, "Test CA", seen.SecurityDetails.Issuer)
				if version == "1.2" {
					assert.Equal(t, "ECDHE_ECDSA", seen.SecurityDetails.KeyExchange)
				}
				// The page is our end's view of the same connection.
				assert.Contains(t, page, "TLS "+version)
				group := seen.SecurityDetails.KeyExchangeGroup
				require.NotEmpty(t, group)
				report := servedReport(t, f, s)
				assert.Equal(t, p.Name(), report.Provider)
				assert.Contains(t, page, p.LibraryVersion())
				assert.Contains(t, page, group)
				t.Logf("%s %s: %s, %s, %s, %s", p.Name(), p.LibraryVersion(), seen.SecurityDetails.Protocol, group, seen.SecurityDetails.Cipher, seen.Protocol)
				if file := os.Getenv("POLYTLS_SCREENSHOT"); file != "" && p.Name() == "boringssl" && version == "1.3" {
					require.NoError(t, os.WriteFile(file, screenshot, 0o644))
				}
				s.stop(t)
			})
		}
	}
}

// servedReport is the page as JSON, as curl gets it.
func servedReport(t *testing.T, f *fixtures, s *serving) (report struct{ Provider string }) {
	out := must(t, program(t, "curl"), "--disable", "--silent", "--show-error", "--noproxy", "*", "--cacert", f.ca,
		"--resolve", hostName+":"+s.port+":127.0.0.1", "https://"+hostName+":"+s.port+"/json")
	require.NoError(t, json.Unmarshal([]byte(out), &report), out)
	return report
}

// browser is a headless Chromium that trusts the CA of the fixtures.
type browser struct{ ctx context.Context }

func startBrowser(t *testing.T, chromium string, f *fixtures) *browser {
	// Chromium takes CAs of users from a database of NSS in their home.
	home := t.TempDir()
	for _, dir := range []string{filepath.Join(home, ".pki", "nssdb"), filepath.Join(home, ".local", "share", "pki", "nssdb")} {
		require.NoError(t, os.MkdirAll(dir, 0o700))
		must(t, program(t, "certutil"), "-N", "-d", "sql:"+dir, "--empty-password")
		must(t, program(t, "certutil"), "-A", "-d", "sql:"+dir, "-n", "ca", "-t", "C,,", "-i", f.ca)
	}
	options := append([]chromedp.ExecAllocatorOption{}, chromedp.DefaultExecAllocatorOptions[:]...)
	options = append(options, chromedp.ExecPath(chromium), chromedp.UserDataDir(filepath.Join(home, "profile")), chromedp.Env("HOME="+home),
		// The sandbox does not start for root, and nothing from elsewhere is loaded.
		chromedp.NoSandbox, chromedp.DisableGPU, chromedp.Flag("disable-quic", true), chromedp.Flag("disable-component-update", true),
		chromedp.ModifyCmdFunc(func(cmd *exec.Cmd) { cmd.WaitDelay = 5 * time.Second }))
	ctx, cancelAllocator := chromedp.NewExecAllocator(context.Background(), options...)
	ctx, cancelBrowser := chromedp.NewContext(ctx)
	t.Cleanup(func() {
		cancelBrowser()
		cancelAllocator()
	})
	require.NoError(t, chromedp.Do(ctx), "the browser does not start")
	return &browser{ctx}
}

// load returns what the developer tools say of the page's response, its text and
// a picture of it.
func (b *browser) load(t *testing.T, url string) (response *network.Response, text string, screenshot []byte) {
	ctx, cancel := context.WithTimeout(b.ctx, 30*time.Second)
	defer cancel()
	require.NoError(t, chromedp.Do(ctx, chromedp.EmulateViewport(760, 900)))
	response, err := chromedp.Run(ctx, chromedp.NavigateResponse(url))
	require.NoError(t, err)
	require.NotNil(t, response)
	text, err = chromedp.Run(ctx, chromedp.Evaluate[string]("document.body.innerText"))
	require.NoError(t, err)
	screenshot, err = chromedp.Run(ctx, chromedp.CaptureScreenshot())
	require.NoError(t, err)
	return response, text, screenshot
}

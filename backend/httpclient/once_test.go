package httpclient_test

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"sync/atomic"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/httpclient"
)

// A server that has read a request may have minted, though the connection breaks before
// it answers. net/http repeats requests by itself, on a connection that was kept.
func TestNothingThatMayMintIsSentTwice(t *testing.T) {
	var minted atomic.Int32
	s := serve(t, func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		if r.URL.Path == "/warm" {
			return
		}
		minted.Add(1)
		conn, _, err := http.NewResponseController(w).Hijack()
		if err == nil {
			_ = conn.Close()
		}
	})
	for name, test := range map[string]struct {
		method, header string
		bare           bool
		ctx            context.Context
		minted         int32
	}{
		"a POST":                                   {method: http.MethodPost, minted: 1},
		"a POST with a key":                        {method: http.MethodPost, header: "Idempotency-Key", minted: 1},
		"a POST with a key in lower case":          {method: http.MethodPost, header: "idempotency-key", minted: 1},
		"a POST with the other key":                {method: http.MethodPost, header: "X-Idempotency-Key", minted: 1},
		"a POST with a key and no body":            {method: http.MethodPost, header: "Idempotency-Key", bare: true, minted: 1},
		"a PUT without a body":                     {method: http.MethodPut, bare: true, minted: 1},
		"a DELETE with a key":                      {method: http.MethodDelete, header: "Idempotency-Key", bare: true, minted: 1},
		"a GET that mints":                         {method: http.MethodGet, bare: true, ctx: httpclient.Once(context.Background()), minted: 1},
		"a GET that mints, with a key":             {method: http.MethodGet, header: "Idempotency-Key", bare: true, ctx: httpclient.Once(context.Background()), minted: 1},
		"a GET that mints, with a body":            {method: http.MethodGet, ctx: httpclient.Once(context.Background()), minted: 1},
		"a request without a method that mints":    {bare: true, ctx: httpclient.Once(context.Background()), minted: 1},
		"a HEAD that mints":                        {method: http.MethodHead, bare: true, ctx: httpclient.Once(context.Background()), minted: 1},
		"a GET that reads, beside one that mints":  {method: http.MethodGet, bare: true, ctx: httpclient.Reading(httpclient.Once(context.Background())), minted: 2},
		"any other GET, so that this tells at all": {method: http.MethodGet, bare: true, minted: 2},
	} {
		t.Run(name, func(t *testing.T) {
			for _, kind := range []string{"Do", "a vendor's"} {
				c := newClient(t, httpclient.Options{}).To([]string{httpclient.Below(s.URL)})
				_, err := c.Do(request(t, s.URL+"/warm")) // the connection is kept
				require.NoError(t, err)
				minted.Store(0)
				req := request(t, s.URL+"/mint")
				if test.bare {
					req.Body, req.GetBody, req.ContentLength = nil, nil, 0
				}
				req.Method = test.method
				if test.header != "" {
					req.Header[test.header] = []string{"k"}
				}
				if test.ctx != nil {
					req = req.WithContext(test.ctx)
				}
				if kind == "Do" {
					_, err = c.Do(req)
				} else {
					_, err = c.HTTP().Do(req)
					err = httpclient.Cause(err)
				}
				require.True(t, failed(t, err).Sent)
				require.Equal(t, test.minted, minted.Load(), kind)
			}
		})
	}
}

// A request that is sent once leaves no connection behind, nor changes what it says.
func TestARequestThatIsSentOnceIsAnOrdinaryOne(t *testing.T) {
	second, ca := serveHTTP2(t, 100, echo)
	for proto, at := range map[string]string{"HTTP/1.1": serve(t, echo).URL, "HTTP/2.0": second.URL} {
		c := newClient(t, httpclient.Options{CAPEM: ca}).To([]string{httpclient.Below(at)})
		for range 2 {
			req, err := http.NewRequestWithContext(httpclient.Once(context.Background()), http.MethodGet, at+"/", nil)
			require.NoError(t, err)
			resp, err := c.Do(req)
			require.NoError(t, err)
			require.Equal(t, proto+" 0 ", string(resp.Body))
		}
	}
}

func echo(w http.ResponseWriter, r *http.Request) {
	body, _ := io.ReadAll(r.Body)
	_, _ = fmt.Fprintf(w, "%s %d %s", r.Proto, r.ContentLength, body)
}

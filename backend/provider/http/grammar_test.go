package httpapi

import (
	"testing"

	"github.com/stretchr/testify/require"
)

// What systems want that have little in common: each of these can be said.
func TestTheGrammarSaysWhatSystemsWant(t *testing.T) {
	const anyParent = `"parent": {"headers": {"Authorization": "Bearer {{token}}"}},`
	for name, text := range map[string]string{
		"two steps, a level": `{"class": "token", ` + anyParent + `
			"access": {"permissions": {"ask": true, "required": true, "levels": ["Viewer", "Editor", "Admin"]}},
			"mint": [
				{"method": "POST", "path": "api/serviceaccounts", "json": {"name": "{{name}}", "role": "{{permissions.role}}"}, "take": {"account": "/id"},
				 "undo": {"method": "DELETE", "path": "api/serviceaccounts/{{taken.account}}", "gone": {"status": [404]}},
				 "find": {"method": "GET", "path": "api/serviceaccounts/search", "query": {"query": "{{name}}"}, "page": {"query": "page"},
					"items": "/serviceAccounts", "where": [{"at": "/name", "is": "{{name}}"}], "take": {"account": "/id"}}},
				{"method": "POST", "path": "api/serviceaccounts/{{taken.account}}/tokens", "json": {"name": "{{name}}", "secondsToLive": "{{ttl | seconds}}"}, "take": {"key": "/key"}}
			],
			"child": {"secrets": {"access_token": "{{taken.key}}"}, "expires": "asked"}}`,
		"days, lists of objects, a login": `{"class": "token", "parent": {"headers": {"Authorization": "Basic {{basic}}"}}, "life": {"least": "1d"},
			"access": {"resources": {"ask": true, "required": true}, "scopes": {"ask": true, "check": true, "required": true, "pattern": "[a-z-]+:[a-z]+"}},
			"mint": [{"method": "POST", "path": "api/v2.0/robots", "json": {"name": "{{name}}", "level": "system", "duration": "{{ttl | days}}",
				"permissions": {"$each": "resources", "value": {"kind": "project", "namespace": "{{item}}",
					"access": {"$each": "scopes", "value": {"resource": "{{item | before :}}", "action": "{{item | after :}}"}}}}},
				"take": {"secret": "/secret", "id": "/id", "login": "/name", "ends": "/expires_at", "access": "/permissions/0/access"},
				"undo": {"method": "DELETE", "path": "api/v2.0/robots/{{taken.id}}", "gone": {"status": [404]}}}],
			"child": {"secrets": {"password": "{{taken.secret}}"}, "shown": {"username": "{{taken.login}}"}, "expires": {"from": "ends", "as": "unix", "never": [-1]},
				"granted": {"scopes": {"from": "access", "as": "list", "each": "/action"}}}}`,
		"a form, a date, an end by name": `{"class": "token", ` + anyParent + `"access": {"resources": {"ask": true, "required": true}},
			"mint": [{"method": "POST", "path": "api/user_tokens/generate", "form": {"name": "{{name}}", "type": "PROJECT_ANALYSIS_TOKEN", "projectKey": "{{resources | one}}", "expirationDate": "{{expires | date}}"},
				"take": {"token": "/token"}, "undo": {"method": "POST", "path": "api/user_tokens/revoke", "form": {"name": "{{name}}"}, "success": {"status": [204]}},
				"find": {"method": "GET", "path": "api/user_tokens/search", "items": "/userTokens", "where": [{"at": "/name", "is": "{{name}}"}]}}],
			"child": {"secrets": {"access_token": "{{taken.token}}"}, "expires": "asked"}}`,
		"two keys, deep members": `{"class": "token", "settings": {"account": {"about": "The service account."}},
			"parent": {"headers": {"DD-API-KEY": "{{secrets.api_key}}", "DD-APPLICATION-KEY": "{{secrets.app_key}}"}}, "access": {"scopes": {"ask": true, "required": true}},
			"mint": [{"method": "POST", "path": "api/v2/service_accounts/{{settings.account}}/access_tokens", "json": {"data": {"type": "t", "attributes": {"name": "{{name}}", "scopes": "{{scopes}}", "expires_at": "{{expires | rfc3339}}"}}},
				"take": {"key": "/data/attributes/key", "id": "/data/id"}, "undo": {"method": "DELETE", "path": "api/v2/service_accounts/{{settings.account}}/access_tokens/{{taken.id}}", "gone": {"status": [404]}},
				"find": {"method": "GET", "path": "api/v2/service_accounts/{{settings.account}}/access_tokens", "query": {"page[size]": "100"}, "page": {"query": "page[number]", "first": 0}, "items": "/data", "where": [{"at": "/attributes/name", "is": "{{name}}"}], "take": {"id": "/id"}}}],
			"child": {"secrets": {"access_token": "{{taken.key}}"}, "expires": "asked"}}`,
		"an object with names of what was asked": `{"class": "token", ` + anyParent + `"settings": {"account": {"about": "The account."}}, "access": {"resources": {"ask": true, "required": true}, "scopes": {"ask": true, "required": true}},
			"mint": [{"method": "POST", "path": "accounts/{{settings.account}}/tokens", "json": {"name": "{{name}}", "expires_on": "{{expires | rfc3339}}", "policies": [{"effect": "allow",
				"resources": {"$each": "resources", "key": "com.cloudflare.api.account.zone.{{item}}", "value": "*"}, "permission_groups": {"$each": "scopes", "value": {"id": "{{item}}"}}}]},
				"success": {"where": [{"at": "/success", "is": true}]}, "take": {"value": "/result/value", "id": "/result/id", "ends": "/result/expires_on"},
				"undo": {"method": "DELETE", "path": "accounts/{{settings.account}}/tokens/{{taken.id}}", "gone": {"status": [404]}}}],
			"child": {"secrets": {"access_token": "{{taken.value}}"}, "expires": {"from": "ends", "as": "rfc3339"}}}`,
		"keyless by a login": `{"class": "token", "settings": {"audience": {"about": "The audience."}, "client": {"about": "The service principal."}},
			"parent": {"jwt": {"audience": "{{settings.audience}}", "subject": "broker"},
				"login": {"method": "POST", "path": "oidc/v1/token", "form": {"grant_type": "urn:ietf:params:oauth:grant-type:token-exchange", "subject_token": "{{jwt}}", "subject_token_type": "urn:ietf:params:oauth:token-type:jwt", "scope": "all-apis", "client_id": "{{settings.client}}"}, "take": {"session": "/access_token", "lasts": "/expires_in"}, "expires": {"from": "lasts", "as": "seconds"}},
				"headers": {"Authorization": "Bearer {{login.session}}"}},
			"mint": [{"method": "POST", "path": "api/2.0/token/create", "json": {"comment": "{{name}}", "lifetime_seconds": "{{ttl | seconds}}"}, "take": {"value": "/token_value", "id": "/token_info/token_id", "ends": "/token_info/expiry_time"},
				"undo": {"method": "POST", "path": "api/2.0/token/delete", "json": {"token_id": "{{taken.id}}"}, "gone": {"status": [404]}},
				"find": {"method": "GET", "path": "api/2.0/token/list", "items": "/token_infos", "where": [{"at": "/comment", "is": "{{name}}"}], "take": {"id": "/token_id"}}}],
			"child": {"secrets": {"access_token": "{{taken.value}}"}, "expires": {"from": "ends", "as": "unix_ms"}}}`,
		"an end that always answers 200": `{"class": "token", "parent": {"headers": {"Authorization": "ApiKey {{token}}"}}, "access": {"resources": {"ask": true, "required": true}, "scopes": {"ask": true, "required": true}},
			"mint": [{"method": "POST", "path": "_security/api_key", "json": {"name": "{{name}}", "expiration": "{{ttl | duration}}", "role_descriptors": {"broker": {"indices": [{"names": "{{resources}}", "privileges": "{{scopes}}"}]}}},
				"take": {"encoded": "/encoded", "id": "/id", "ends": "/expiration"},
				"undo": {"method": "DELETE", "path": "_security/api_key", "json": {"ids": ["{{taken.id}}"]}, "success": {"status": [200], "where": [{"at": "/error_count", "is": 0}]}},
				"find": {"method": "GET", "path": "_security/api_key", "query": {"name": "{{name}}"}, "items": "/api_keys", "where": [{"at": "/name", "is": "{{name}}"}, {"at": "/invalidated", "is": false}], "take": {"id": "/id"}}}],
			"child": {"secrets": {"access_token": "{{taken.encoded}}"}, "token_type": "ApiKey", "expires": {"from": "ends", "as": "unix_ms"}}}`,
		"an end by the child itself, a header perhaps": `{"class": "token", "headers": {"X-Vault-Namespace": "{{settings.namespace?}}"}, "settings": {"namespace": {"about": "The namespace.", "optional": true}},
			"parent": {"headers": {"X-Vault-Token": "{{token}}"}}, "access": {"scopes": {"ask": true, "check": true, "required": true}},
			"mint": [{"method": "POST", "path": "v1/auth/token/create", "json": {"policies": "{{scopes}}", "ttl": "{{ttl | duration}}", "no_default_policy": true, "renewable": false},
				"take": {"token": "/auth/client_token", "ends": "/auth/lease_duration", "policies": "/auth/token_policies"},
				"undo": {"method": "POST", "path": "v1/auth/token/revoke-self", "parent": false, "headers": {"X-Vault-Token": "{{taken.token}}"}, "success": {"status": [204]}, "gone": {"status": [403]}}}],
			"child": {"secrets": {"access_token": "{{taken.token}}"}, "expires": {"from": "ends", "as": "seconds"}, "granted": {"scopes": {"from": "policies", "as": "list"}}}}`,
		"a login, a password of our making, a list of texts": `{"class": "token",
			"parent": {"login": {"method": "POST", "path": "v3/auth/authenticate", "json": {"name": "{{username}}", "password": "{{password}}"}, "take": {"session": "/token"}, "lasts": "4m"}, "headers": {"Authorization": "{{login.session}}"}},
			"access": {"scopes": {"ask": true, "required": true}},
			"mint": [{"method": "POST", "path": "v3/auth/user/add", "json": {"name": "{{name}}", "password": "{{random}}"}, "undo": {"method": "POST", "path": "v3/auth/user/delete", "json": {"name": "{{name}}"}, "gone": {"status": [400], "where": [{"at": "/message", "contains": "user name not found"}]}},
				"find": {"method": "POST", "path": "v3/auth/user/list", "json": {}, "items": "/users", "where": [{"at": "", "is": "{{name}}"}]}},
				{"method": "POST", "path": "v3/auth/user/grant", "json": {"user": "{{name}}", "role": "{{scopes | one}}"}}],
			"child": {"secrets": {"password": "{{random}}"}, "shown": {"username": "{{name}}"}, "expires": "never"}}`,
		"a token for a JWT, in one step": `{"class": "expiry", "settings": {"integration": {"about": "The OIDC integration."}, "audience": {"about": "Its audience."}}, "parent": {"jwt": {"audience": "{{settings.audience}}", "subject": "broker"}},
			"mint": [{"method": "POST", "path": "access/api/v1/oidc/token", "json": {"grant_type": "urn:ietf:params:oauth:grant-type:token-exchange", "subject_token_type": "urn:ietf:params:oauth:token-type:id_token", "subject_token": "{{jwt}}", "provider_name": "{{settings.integration}}"},
				"take": {"token": "/access_token", "ends": "/expires_in"}}],
			"child": {"secrets": {"access_token": "{{taken.token}}"}, "expires": {"from": "ends", "as": "seconds"}}}`,
		"a robot with a JWT": `{"class": "expiry", "parent": {"jwt": {"audience": "quay", "subject": "broker"}, "headers": {"Authorization": "Basic {{basic.jwt}}"}},
			"mint": [{"method": "GET", "path": "oauth2/federation/robot/token", "take": {"token": "/token"}}],
			"child": {"secrets": {"access_token": "{{taken.token}}"}, "expires": {"assumed": "1h"}}}`,
		"a path of two parts, an object of a second step": `{"class": "token", ` + anyParent + `"access": {"resources": {"ask": true, "required": true, "pattern": "[^/]+/[^/]+"}, "audiences": {"ask": true}},
			"mint": [{"method": "POST", "path": "api/v1/namespaces/{{resources | one | before /}}/secrets", "json": {"metadata": {"name": "{{name}}"}}, "take": {"uid": "/metadata/uid"},
				"undo": {"method": "DELETE", "path": "api/v1/namespaces/{{resources | one | before /}}/secrets/{{name}}", "json": {"preconditions": {"uid": "{{taken.uid}}"}}, "gone": {"status": [404, 409]}}},
				{"method": "POST", "path": "api/v1/namespaces/{{resources | one | before /}}/serviceaccounts/{{resources | one | after /}}/token", "json": {"spec": {"audiences": "{{audiences?}}", "expirationSeconds": "{{ttl | seconds}}", "boundObjectRef": {"kind": "Secret", "name": "{{name}}", "uid": "{{taken.uid}}"}}}, "take": {"token": "/status/token", "ends": "/status/expirationTimestamp"}}],
			"child": {"secrets": {"access_token": "{{taken.token}}"}, "expires": {"from": "ends", "as": "rfc3339"}}}`,
	} {
		t.Run(name, func(t *testing.T) {
			_, err := Parse([]byte(text))
			require.NoError(t, err)
		})
	}
}

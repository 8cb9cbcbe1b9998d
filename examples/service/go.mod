module github.com/pgpooled/pgpooled/examples/service

go 1.26.0

require (
	github.com/lib/pq v1.12.3
	github.com/pgpooled/pgpooled v0.0.0
	github.com/pressly/goose/v3 v3.29.0
	go.yaml.in/yaml/v3 v3.0.5
)

require (
	github.com/mfridman/interpolate v0.0.2 // indirect
	github.com/ngrok/sqlmw v0.0.0-20220520173518-97c9c04efc79 // indirect
	github.com/sethvargo/go-retry v0.5.0 // indirect
	go.uber.org/multierr v1.11.0 // indirect
	golang.org/x/sync v0.24.0 // indirect
	golang.org/x/sys v0.49.0 // indirect
)

replace github.com/pgpooled/pgpooled => ../..

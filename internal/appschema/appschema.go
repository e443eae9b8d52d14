// Package appschema holds the jobs schema that an HTTP-only application has
// before its migration, in both variants that compilers wrote. Demo and tests
// start from it; the product never installs it.
package appschema

import _ "embed"

// HTTPOnly is the schema as compilers of version 1 wrote it last.
//
//go:embed http_only.sql
var HTTPOnly string

// HTTPOnlyEarly is the older variant: without idempotency_key,
// timeout_seconds, the idempotency index and the last three views.
//
//go:embed http_only_early.sql
var HTTPOnlyEarly string

// Insert is how an application enqueues a job, before and after the migration:
// identifier, service_name, operation, input_data, tenant_id, triggered_by,
// correlation_id, entity_type, entity_pk.
const Insert = `INSERT INTO jobs.tb_job_run (identifier, service_name, operation, input_data, tenant_id,
	triggered_by, correlation_id, entity_type, entity_pk) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9)`

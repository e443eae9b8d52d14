package jobs

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"math"
	"slices"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgtype"
)

// claimedSQL is what a claim returns of a row r, in the order in which reader.job
// reads it.
const claimedSQL = `
          r.id, r.identifier, r.service_name, r.operation, r.input_data, r.runner_config, r.security_context,
          r.attempts, r.max_attempts, coalesce(r.timeout_seconds, 0), r.tenant_id, r.correlation_id, r.idempotency_key,
          coalesce(r.requeued_at, r.created_at, '-infinity'::timestamptz), r.started_at`

// The types of those columns; 0 is whatever pgx asks for as text.
var claimedTypes = []uint32{
	pgtype.UUIDOID, 0, 0, 0, 0, 0, 0,
	pgtype.Int4OID, pgtype.Int4OID, pgtype.Int4OID, pgtype.UUIDOID, 0, 0,
	pgtype.TimestamptzOID, pgtype.TimestamptzOID}

// claimedPlaceTypes are those of a claim that also says where the row is now.
var claimedPlaceTypes = append(slices.Clone(claimedTypes), pgtype.TIDOID)

// reader reads the rows of a claim from PostgreSQL's binary form (uuid_send and the
// like), as array writes results: to look up for each column how it is scanned would
// be a good part of what a single job waits for between its claim and its start.
type reader struct {
	values             [][]byte // of the present row, from the next column on
	service, operation string   // of the row before, mostly this one's too
}

// newReader makes sure that the columns are what the reader takes them for.
func newReader(rows pgx.Rows, types []uint32) (*reader, error) {
	if err := rows.Err(); err != nil { // there are no columns then
		return nil, err
	}
	columns := rows.FieldDescriptions()
	for i, t := range types {
		c := &columns[i]
		if t == 0 && c.Format != pgtype.TextFormatCode || t != 0 && (c.Format != pgtype.BinaryFormatCode || c.DataTypeOID != t) {
			return nil, fmt.Errorf("column %s of the claim came as type %d in format %d: the table's columns must have the types that migrate-schema gives them",
				c.Name, c.DataTypeOID, c.Format)
		}
	}
	return &reader{}, nil
}

func (r *reader) next() []byte {
	v := r.values[0]
	r.values = r.values[1:]
	return v
}

// job reads the columns of claimedSQL.
func (r *reader) job(values [][]byte) *Job {
	r.values = values
	j := &Job{}
	copy(j.ID[:], r.next())
	j.Identifier = string(r.next())
	r.service, r.operation = r.word(r.service), r.word(r.operation)
	j.Service, j.Operation = r.service, r.operation
	j.Input, j.RunnerConfig, j.SecurityContext = r.document(), r.document(), r.document()
	j.Attempt, j.MaxAttempts, j.TimeoutSeconds = r.integer(), r.integer(), r.integer()
	if id := r.next(); id != nil {
		j.TenantID = ID(id).String()
	}
	j.CorrelationID, j.IdempotencyKey = string(r.next()), string(r.next())
	j.Place = Place{Micros: r.micros(), ID: j.ID}
	j.StartedAt = time.UnixMicro(r.micros())
	if j.CreatedAt = j.StartedAt; j.Place.Micros != math.MinInt64 && j.Place.Micros != math.MaxInt64 {
		j.CreatedAt = time.UnixMicro(j.Place.Micros)
	}
	return j
}

// word is a text that is mostly the same as in the row before.
func (r *reader) word(before string) string {
	if v := r.next(); string(v) != before {
		return string(v)
	}
	return before
}

func (r *reader) document() json.RawMessage { return bytes.Clone(r.next()) }

// integer is 0 for null.
func (r *reader) integer() int {
	v := r.next()
	if v == nil {
		return 0
	}
	return int(int32(binary.BigEndian.Uint32(v)))
}

// microsTo2000 is PostgreSQL's epoch.
var microsTo2000 = time.Date(2000, 1, 1, 0, 0, 0, 0, time.UTC).UnixMicro()

// micros is a time as a Place has it.
func (r *reader) micros() int64 {
	micros := int64(binary.BigEndian.Uint64(r.next()))
	if micros == math.MinInt64 || micros == math.MaxInt64 { // the infinities
		return micros
	}
	return micros + microsTo2000
}

func (r *reader) tid() pgtype.TID {
	v := r.next()
	return pgtype.TID{BlockNumber: binary.BigEndian.Uint32(v), OffsetNumber: binary.BigEndian.Uint16(v[4:]), Valid: true}
}

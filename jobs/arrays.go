package jobs

import (
	"encoding/binary"
	"math"

	"github.com/jackc/pgx/v5/pgtype"
)

// array is an array in PostgreSQL's binary form (array_send), written straight
// from the results that it stands for: an exchange carries six for each
// completed job, and a general encoder's detours would be most of what an agent
// does for it.
type array []byte

// newArray begins an array of n elements, each of about so many bytes.
func newArray(element uint32, n, size int) array {
	a := make(array, 0, 20+n*(4+size))
	a = binary.BigEndian.AppendUint32(a, 1) // dimensions
	a = binary.BigEndian.AppendUint32(a, 1) // there may be nulls
	a = binary.BigEndian.AppendUint32(a, element)
	a = binary.BigEndian.AppendUint32(a, uint32(n))
	return binary.BigEndian.AppendUint32(a, 1) // the first one's number
}

func (a array) uuid(id ID) array {
	return append(binary.BigEndian.AppendUint32(a, uint32(len(id))), id[:]...)
}

func (a array) int4(n int) array {
	return binary.BigEndian.AppendUint32(binary.BigEndian.AppendUint32(a, 4), uint32(n))
}

func (a array) float8(f float64) array {
	return binary.BigEndian.AppendUint64(binary.BigEndian.AppendUint32(a, 8), math.Float64bits(f))
}

func (a array) tid(t pgtype.TID) array {
	a = binary.BigEndian.AppendUint32(a, 6)
	return binary.BigEndian.AppendUint16(binary.BigEndian.AppendUint32(a, t.BlockNumber), t.OffsetNumber)
}

// text adds a text, or null for nil.
func (a array) text(s []byte) array {
	if s == nil {
		return binary.BigEndian.AppendUint32(a, math.MaxUint32)
	}
	return append(binary.BigEndian.AppendUint32(a, uint32(len(s))), s...)
}

// tidArrayOID is the type tid[] of every PostgreSQL (pg_type.dat), which pgx
// does not know by itself.
const tidArrayOID = 1010

// registerArrays lets a connection take arrays as parameters, beside whatever
// it takes already.
func registerArrays(types *pgtype.Map) {
	for name, oid := range map[string]uint32{"uuid": pgtype.UUIDArrayOID, "int4": pgtype.Int4ArrayOID,
		"float8": pgtype.Float8ArrayOID, "text": pgtype.TextArrayOID, "tid": tidArrayOID} {
		element, _ := types.TypeForName(name)
		types.RegisterType(&pgtype.Type{Name: "_" + name, OID: oid, Codec: arrayCodec{&pgtype.ArrayCodec{ElementType: element}}})
	}
}

type arrayCodec struct{ *pgtype.ArrayCodec }

func (arrayCodec) PreferredFormat() int16 { return pgtype.BinaryFormatCode }

func (c arrayCodec) PlanEncode(m *pgtype.Map, oid uint32, format int16, value any) pgtype.EncodePlan {
	if _, ok := value.(array); ok && format == pgtype.BinaryFormatCode {
		return arrayPlan{}
	}
	return c.ArrayCodec.PlanEncode(m, oid, format, value)
}

type arrayPlan struct{}

func (arrayPlan) Encode(value any, buf []byte) ([]byte, error) {
	return append(buf, value.(array)...), nil
}

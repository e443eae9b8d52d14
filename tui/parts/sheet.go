package parts

import (
	"encoding/csv"
	"encoding/json"
	"io"
)

// Sheet writes what a page lists, a row at a time: as CSV with a head, or as
// one JSON array of objects.
type Sheet struct {
	columns []string
	csv     *csv.Writer
	w       io.Writer
	rows    int64
}

// NewSheet begins a sheet of the columns.
func NewSheet(w io.Writer, asJSON bool, columns ...string) (*Sheet, error) {
	s := &Sheet{columns: columns, w: w}
	if asJSON {
		_, err := io.WriteString(w, "[")
		return s, err
	}
	s.csv = csv.NewWriter(w)
	return s, s.csv.Write(columns)
}

// Row adds a row of as many values as there are columns.
func (s *Sheet) Row(values ...string) error {
	s.rows++
	if s.csv != nil {
		return s.csv.Write(values)
	}
	head := ",\n"
	if s.rows == 1 {
		head = "\n"
	}
	out := []byte(head + "{")
	for i, v := range values {
		if i > 0 {
			out = append(out, ", "...)
		}
		key, _ := json.Marshal(s.columns[i])
		text, err := json.Marshal(v)
		if err != nil {
			return err
		}
		out = append(append(append(out, key...), ": "...), text...)
	}
	_, err := s.w.Write(append(out, '}'))
	return err
}

// End ends the sheet and tells how many rows it has.
func (s *Sheet) End() (rows int64, err error) {
	if s.csv != nil {
		s.csv.Flush()
		return s.rows, s.csv.Error()
	}
	_, err = io.WriteString(s.w, "\n]\n")
	return s.rows, err
}

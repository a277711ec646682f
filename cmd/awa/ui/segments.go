package ui

import (
	"fmt"
	"math"
)

// segmentRow is a segment of the ring, as health describes it.
type segmentRow struct {
	Subject, Level, Message string
	Hint                    *string
	Bytes                   int64
	IsCurrent, IsEmpty      bool
}

const (
	segmentsSQL = `
		select h.subject, h.level, h.message, h.hint, coalesce((h.details ->> 'bytes')::bigint, 0),
		       coalesce((h.details ->> 'is_current')::boolean, false), coalesce((h.details ->> 'is_empty')::boolean, false)
		  from awa.health_of('{segment}') h
		 order by h.subject`
	// What keeps segments from being emptied, and rows from being removed.
	pinsSQL = `
		select ` + findingColumns + `
		  from awa.health_of('{prune,horizon,claimer,restore,maintenance}') h
		 where h.topic <> 'maintenance' or h.level <> 'ok'
		 limit $1`
)

// segmentShape is a segment in the picture, filled by its share of the largest one.
type segmentShape struct {
	segmentRow
	X, Y, Height float64
	Arrow        string // to the next one; from the last one to the first
}

type segmentsView struct {
	*page
	Segments panel[[]segmentShape]
	Pins     panel[[]finding]
}

// ringHeight is the height of a full segment in the picture.
const ringHeight = 100

func segmentsPage(p *page) (string, any) {
	p.Title, p.Section = "Segments", "segments"
	v := segmentsView{page: p}
	v.Segments = read(p, healthHint, func(q queryer) ([]segmentShape, error) {
		rows, err := rowsOf[segmentRow](q, segmentsSQL)
		if err != nil {
			return nil, err
		}
		for i := range rows {
			rows[i].Message = p.h.masker.Text(rows[i].Message)
			maskText(p.h.masker, rows[i].Hint)
		}
		return shapes(rows), nil
	})
	v.Pins = readFindings(p, pinsSQL)
	return "segments", v
}

// shapes draws the segments side by side, each filled by its share of the largest one.
func shapes(rows []segmentRow) []segmentShape {
	var largest int64 = 1
	for _, row := range rows {
		largest = max(largest, row.Bytes)
	}
	var drawn []segmentShape
	for i, row := range rows {
		height := math.Max(round(float64(row.Bytes)/float64(largest)*ringHeight), 1)
		if row.IsEmpty {
			height = 0
		}
		x := float64(i) * 150
		arrow := fmt.Sprintf("M%g 50 h14 m-5 -4 l5 4 l-5 4", x+133)
		if i == len(rows)-1 {
			arrow = fmt.Sprintf("M%g 104 v12 H65 v-10 m-4 5 l4 -5 l4 5", x+65)
		}
		drawn = append(drawn, segmentShape{row, x, ringHeight - height, height, arrow})
	}
	return drawn
}

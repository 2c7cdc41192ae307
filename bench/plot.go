package main

import (
	"fmt"

	"gonum.org/v1/plot"
	"gonum.org/v1/plot/plotter"
	"gonum.org/v1/plot/plotutil"
	"gonum.org/v1/plot/vg"

	"github.com/polytls/polytls/internal/measure"
)

// plotRatios draws how every contender compares with std, measure by measure.
func plotRatios(report *measure.Report, path string) error {
	p := plot.New()
	p.Title.Text = fmt.Sprintf("Processor time (memory for idle-memory) of std divided by that of others: longer is better\n%s, %d cores, %s, %s",
		report.Machine.Processor, report.Machine.Cores, report.Machine.Go, report.Date.Format("2006-01-02"))
	p.X.Label.Text = "times std"
	p.X.Min = 0

	// From the top down, as in the table.
	var names []string
	for i := len(report.Measures) - 1; i >= 0; i-- {
		names = append(names, report.Measures[i].Name)
	}
	var shown []measure.ContenderReport
	for _, c := range report.Contenders {
		if c.Name != measure.Reference {
			shown = append(shown, c)
		}
	}
	height := vg.Points(6)
	for i, c := range shown {
		values := make(plotter.Values, len(names))
		for j, name := range names {
			if result := report.Result(name, c.Name); result != nil {
				values[j] = result.Ratio
				p.X.Max = max(p.X.Max, 1.1*result.Ratio)
			}
		}
		bars, err := plotter.NewBarChart(values, height)
		if err != nil {
			return err
		}
		bars.Horizontal = true
		bars.Color = plotutil.SoftColors[i%len(plotutil.SoftColors)]
		if c.Kind == measure.KindFloor {
			bars.Color = plotutil.DarkColors[i%len(plotutil.DarkColors)]
		}
		bars.LineStyle.Width = 0
		bars.Offset = height * vg.Length(float64(len(shown)-1)/2-float64(i))
		p.Add(bars)
		p.Legend.Add(c.Name, bars)
	}
	one, err := plotter.NewLine(plotter.XYs{{X: 1, Y: -0.5}, {X: 1, Y: float64(len(names)) - 0.5}})
	if err != nil {
		return err
	}
	one.Dashes = []vg.Length{vg.Points(4), vg.Points(3)}
	p.Add(one)
	p.NominalY(names...)
	rows := vg.Length(len(names)) * (height*vg.Length(len(shown)) + vg.Points(10))
	return p.Save(10*vg.Inch, rows+1.5*vg.Inch, path)
}

module sam3ft.dev/tools/probe

go 1.25.0

tool sam3ft.dev/tools/probe

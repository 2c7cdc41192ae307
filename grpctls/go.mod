module github.com/polytls/polytls/grpctls

go 1.26.0

replace github.com/polytls/polytls => ..

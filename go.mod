module github.com/polytls/polytls

go 1.26

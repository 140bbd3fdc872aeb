package imports

import (
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// otherKeys are keys that log lines have had for what goes by another name: one thing has one key, so that logs can be searched.
var otherKeys = map[string]string{
	"err": "error", "file": "path", "filename": "path", "addr": "address", "ip": "address", "iface": "interface",
}

// logs are the methods of slog.Logger that take keys, with how many arguments stand before those.
var logs = map[string]int{
	"Debug": 1, "Info": 1, "Warn": 1, "Error": 1, "DebugContext": 2, "InfoContext": 2, "WarnContext": 2, "ErrorContext": 2, "Log": 3, "With": 0,
}

// In logs of the product a thing goes by one key everywhere. An error is never under another one than "error".
func TestLogKeys(t *testing.T) {
	t.Parallel()
	lines := 0
	for _, top := range []string{"cmd", "cni", "keys", "mesh"} {
		err := filepath.WalkDir(filepath.Join("../..", top), func(path string, _ fs.DirEntry, err error) error {
			if err != nil || !strings.HasSuffix(path, ".go") || strings.HasSuffix(path, "_test.go") {
				return err
			}
			files := token.NewFileSet()
			file, err := parser.ParseFile(files, path, nil, parser.SkipObjectResolution)
			if err != nil {
				return err
			}
			ast.Inspect(file, func(n ast.Node) bool {
				if call, ok := n.(*ast.CallExpr); ok {
					lines += len(keysOf(call))
					for _, key := range keysOf(call) {
						if want, other := otherKeys[key]; other {
							t.Errorf("%s: the key %q is %q everywhere else", files.Position(call.Pos()), key, want)
						}
					}
				}
				return true
			})
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	if lines < 100 {
		t.Errorf("only %d keys were found: does this test still see log lines?", lines)
	}
}

// keysOf are the keys of a call, if it is one of a logger: of something named log, or that ends so.
func keysOf(call *ast.CallExpr) []string {
	method, ok := call.Fun.(*ast.SelectorExpr)
	if !ok {
		return nil
	}
	before, known := logs[method.Sel.Name]
	var on string
	switch x := method.X.(type) {
	case *ast.Ident:
		on = x.Name
	case *ast.SelectorExpr:
		on = x.Sel.Name
	}
	if !known || !slices.Contains([]string{"log", "slog", "logger"}, strings.ToLower(on)) {
		return nil
	}
	var keys []string
	for i := before; i < len(call.Args); i += 2 {
		if literal, ok := call.Args[i].(*ast.BasicLit); ok && literal.Kind == token.STRING {
			if key, err := strconv.Unquote(literal.Value); err == nil {
				keys = append(keys, key)
			}
		}
	}
	return keys
}

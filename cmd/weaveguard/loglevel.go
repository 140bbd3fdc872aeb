package main

import (
	"fmt"
	"log/slog"
	"strings"

	"github.com/spf13/cobra"
)

func newLogLevelCommand(o *options) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "log-level [debug|info|warn|error]",
		Short: "Show how much the agent logs, or change it until it restarts",
		Long: "log-level shows the least level of lines that the agent of this node logs, or\n" +
			"changes it at once. When the agent is started again its flag --log-level counts.\n\n" +
			"Exit status: 0 when the agent answered, 2 when it couldn't be asked.",
		Example: "  weaveguard log-level\n" +
			"  weaveguard log-level debug",
		Args:      atMostOne("a level"),
		ValidArgs: []string{"debug", "info", "warn", "error"},
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(args) == 1 {
				level, err := levelNamed(args[0])
				if err == nil {
					err = o.client().SetLogLevel(cmd.Context(), level)
				}
				if err != nil {
					return err
				}
			}
			level, err := o.client().LogLevel(cmd.Context())
			if err != nil {
				return err
			}
			return printed(fmt.Fprintln(cmd.OutOrStdout(), strings.ToLower(level.String())))
		},
	}
	return cmd
}

// levelNamed is a level by its name.
func levelNamed(name string) (slog.Level, error) {
	for _, level := range []slog.Level{slog.LevelDebug, slog.LevelInfo, slog.LevelWarn, slog.LevelError} {
		if strings.EqualFold(level.String(), name) {
			return level, nil
		}
	}
	return 0, &adviceError{fmt.Sprintf("%q is no level to log at", name), "give debug, info, warn or error"}
}

/* SPDX-FileCopyrightText: 2026 Multi-Sonicator Operations contributors
 * SPDX-License-Identifier: GPL-3.0-or-later
 *
 * Commands to a running simulator: one line of text "BOARD|line COMMAND [ARGUMENT...]", answered by one line of JSON. */
#ifndef CONTROL_H
#define CONTROL_H

#include "site.h"

/* Carries out one command and writes the answer (without line end). Returns false if it was refused. */
bool control_command(struct site *site, const char *line, char *answer, size_t size);

/* The client: sends the words as one command, prints the answer; the process's exit status. */
int control_client(const char *socket_path, char **words, int count);

#endif

/** Handlers that use what Express adds to Node's response. */
import { resolve } from "node:path";

import type { NextFunction, Request, Response } from "express";

import type { CaseName } from "../cases.js";
import { AppError, everyByte, someFile, words } from "./node.js";

export type ExpressHandler = (req: Request, res: Response, next: NextFunction) => unknown;

const sendFile: ExpressHandler = (_req, res) => res.sendFile(resolve(someFile));

/** What is not here is written as on bare Node. */
export const expressHandlers: Partial<Record<CaseName, ExpressHandler>> = {
  json: (req, res) =>
    res.status(201).json({ id: "ch_1", amount: (req.body as { amount: number }).amount }),
  "send-string": (_req, res) => res.send("<p>paid</p>"),
  "send-buffer": (_req, res) => res.type("application/octet-stream").send(everyByte),
  "send-object": (_req, res) => res.send({ id: "ch_1", paid: true }),
  "multi-value": (_req, res) =>
    res
      .links({ next: "/charges?after=1", first: "/charges" })
      .append("Link", '</charges?after=9>; rel="last"')
      .vary("Accept")
      .vary("Origin")
      .send("ok"),
  "location-etag": (_req, res) =>
    res
      .status(201)
      .location("/charges/ch_1?expand=\u00e9")
      .set("ETag", 'W/"abc"')
      .set("Last-Modified", "Thu, 01 Jan 2026 00:00:00 GMT")
      .json({ id: "ch_1" }),
  cookies: (_req, res) =>
    res.set("X-Before", "1").cookie("session", "1").cookie("theme", "dark").json({ id: "ch_1" }),
  redirect: (_req, res) => res.redirect("/charges/ch_1"),
  "see-other": (_req, res) => res.redirect(303, "/charges/ch_1"),
  "send-status": (_req, res) => res.sendStatus(202),
  "no-content": (_req, res) => res.status(204).send(),
  "send-file": sendFile,
  "send-file-range": sendFile,
  "send-file-bad-range": sendFile,
  "send-file-not-modified": sendFile,
  "send-file-precondition": sendFile,
  "gzip-in-front": (_req, res) => res.type("text/plain").send(words),
  "next-error": (_req, res, next) => {
    res.set("X-Decline-Code", "do_not_honor");
    next(new AppError(402, "declined"));
  },
};

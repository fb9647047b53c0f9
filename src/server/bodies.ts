/**
 * Request bodies. Owns: which content types are read, how large a body may be, and how a form becomes the same value as
 * the JSON it stands for. Stands in front of the idempotency middleware, which needs a parsed body.
 */
import express from "express";
import type { Request, RequestHandler } from "express";
import { keepRawBody } from "../index.js";
import { ApiError } from "./wire.js";

/** Far above any charge or order, and small enough that many at once are no burden. */
const maxBodyBytes = 100 * 1024;
/** Most fields of a form; a charge with full metadata has 56. */
const maxFormFields = 1_000;

const formType = "application/x-www-form-urlencoded";

/** JSON and forms, as Stripe's API takes them; any other body is refused with 415. */
export function readBodies(): RequestHandler[] {
  return [
    refuseOtherTypes,
    // The bytes are kept because integers beyond 2^53 lose digits when they are parsed, and two amounts would look the same.
    express.json({ limit: maxBodyBytes, verify: keepRawBody }),
    express.urlencoded({ limit: maxBodyBytes, parameterLimit: maxFormFields, extended: true }),
  ];
}

const refuseOtherTypes: RequestHandler = (req, _res, next) => {
  // `is` answers null for a request without a body, which validation refuses by naming what is missing.
  if (req.is(["application/json", formType]) === false) {
    const detail = `Send application/json or ${formType}.`;
    throw new ApiError("unsupported_media_type", detail, {
      headers: { "Accept-Post": `application/json, ${formType}` },
    });
  }
  next();
};

export function isForm(req: Request): boolean {
  return req.is(formType) === formType;
}

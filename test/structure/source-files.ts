/** The syntax of every file under src, read by the compiler that also runs the tests. */
import { readdirSync, readFileSync } from "node:fs";
import { dirname, join, posix } from "node:path";

import { parseSync } from "@swc/core";

export type Import = { from: string; typeOnly: boolean };

export type SourceFile = {
  /** Relative to src, with forward slashes. */
  path: string;
  lines: number;
  imports: Import[];
  /** Things that the style forbids in every file, in words. */
  faults: string[];
  /** Uses of a wall clock or of randomness, in words. */
  impurities: string[];
};

type Node = { type: string } & Record<string, unknown>;

function isNode(value: unknown): value is Node {
  return typeof value === "object" && value !== null && typeof (value as Node).type === "string";
}

function visit(value: unknown, enter: (node: Node) => void): void {
  if (Array.isArray(value)) for (const item of value as unknown[]) visit(item, enter);
  else if (typeof value === "object" && value !== null) {
    if (isNode(value)) enter(value);
    for (const child of Object.values(value)) visit(child, enter);
  }
}

function identifier(value: unknown): string {
  return isNode(value) && value.type === "Identifier" ? String(value["value"]) : "";
}

function allTypeOnly(specifiers: unknown): boolean {
  const list = specifiers as Node[];
  return list.length > 0 && list.every((specifier) => specifier["isTypeOnly"] === true);
}

function importOf(node: Node): Import | undefined {
  const from = (source: unknown): string => String((source as Node)["value"]);
  switch (node.type) {
    case "ImportDeclaration":
      return {
        from: from(node["source"]),
        typeOnly: node["typeOnly"] === true || allTypeOnly(node["specifiers"]),
      };
    case "ExportAllDeclaration":
      return { from: from(node["source"]), typeOnly: node["typeOnly"] === true };
    case "ExportNamedDeclaration":
      return isNode(node["source"])
        ? {
            from: from(node["source"]),
            typeOnly: node["typeOnly"] === true || allTypeOnly(node["specifiers"]),
          }
        : undefined;
    case "TsImportType":
      return { from: from(node["argument"]), typeOnly: true };
    case "CallExpression": {
      const [first] = node["arguments"] as { expression: Node }[];
      const callee = node["callee"] as Node;
      const loads = callee.type === "Import" || identifier(callee) === "require";
      return loads && first?.expression.type === "StringLiteral"
        ? { from: from(first.expression), typeOnly: false }
        : undefined;
    }
    default:
      return undefined;
  }
}

function impurityOf(node: Node): string | undefined {
  if (node.type === "NewExpression" && identifier(node["callee"]) === "Date")
    return (node["arguments"] as unknown[] | null)?.length ? undefined : "new Date()";
  if (node.type !== "MemberExpression") return undefined;
  const name = `${identifier(node["object"])}.${identifier(node["property"])}`;
  return ["Date.now", "Math.random"].includes(name) ? name : undefined;
}

function faultOf(node: Node): string | undefined {
  if (node.type === "ExportDefaultDeclaration" || node.type === "ExportDefaultExpression")
    return "default export";
  return node.type === "TsKeywordType" && node["kind"] === "any" ? "any" : undefined;
}

export function parseSource(path: string, text: string): SourceFile {
  const file: SourceFile = {
    path,
    lines: text.replace(/\n$/, "").split("\n").length,
    imports: [],
    faults: [],
    impurities: [],
  };
  visit(parseSync(text, { syntax: "typescript", target: "es2022" }), (node) => {
    const found = importOf(node);
    if (found !== undefined) file.imports.push(found);
    const fault = faultOf(node);
    if (fault !== undefined) file.faults.push(fault);
    const impurity = impurityOf(node);
    if (impurity !== undefined) file.impurities.push(impurity);
  });
  return file;
}

export function readSources(root = "src"): SourceFile[] {
  return readdirSync(root, { recursive: true, encoding: "utf8" })
    .filter((name) => name.endsWith(".ts"))
    .sort()
    .map((name) => parseSource(name.replaceAll("\\", "/"), readFileSync(join(root, name), "utf8")));
}

/** The imported file relative to src, or undefined for a package. */
export function resolveImport(file: string, from: string): string | undefined {
  if (!from.startsWith(".")) return undefined;
  return posix.join(dirname(file), from).replace(/\.js$/, ".ts");
}

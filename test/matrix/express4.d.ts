/** Express 4 under its alias. What the matrix uses of it has the types of Express 5. */
declare module "express4" {
  import express from "express";
  export default express;
}

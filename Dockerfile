# syntax=docker/dockerfile:1

FROM node:20-bookworm-slim AS build
WORKDIR /app
COPY package.json package-lock.json ./
# TypeScript is all the build needs; it has no install script, and neither has anything in the image below.
RUN npm ci --ignore-scripts --no-fund --no-audit
COPY tsconfig.json tsconfig.esm.json tsconfig.cjs.json ./
COPY scripts ./scripts
COPY src ./src
RUN npm run build

FROM node:20-bookworm-slim AS dependencies
WORKDIR /app
COPY package.json package-lock.json ./
# The server's frameworks and drivers are optional peers of the library; here they are installed in the versions of
# the lock file. The embedded PostgreSQL stays out: a container is given DATABASE_URL.
RUN npm ci --omit=dev --ignore-scripts --no-fund --no-audit \
  && node -e "const { packages } = require('./package-lock.json'); \
       for (const name of ['express', 'helmet', 'ioredis', 'pg', 'pino', 'pino-http', 'prom-client']) \
         console.log(name + '@' + packages['node_modules/' + name].version);" \
     | xargs npm install --no-save --save-prod --omit=dev --ignore-scripts --no-fund --no-audit

FROM node:20-bookworm-slim
ENV NODE_ENV=production
WORKDIR /app
COPY --from=dependencies /app/node_modules ./node_modules
COPY --from=build /app/dist ./dist
COPY package.json openapi.yaml LICENSE ./
# Where the built-in payment provider keeps its books.
RUN install -d -o node -g node /var/lib/oncekey
USER node
ENV PORT=3000 ONCEKEY_DATA_DIR=/var/lib/oncekey
EXPOSE 3000
HEALTHCHECK --interval=10s --timeout=3s --start-period=15s --retries=3 \
  CMD ["node", "-e", "fetch('http://127.0.0.1:' + process.env.PORT + '/healthz').then((r) => process.exit(r.ok ? 0 : 1), () => process.exit(1))"]
ENTRYPOINT ["node", "dist/esm/cli/main.js"]
CMD ["serve"]
